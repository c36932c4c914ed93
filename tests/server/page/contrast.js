// The texts whose contrast to what lies under them is below 4.5, as WCAG 2.2 counts it (1.4.3).
() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (colour, under) => {
    canvas.fillStyle = under; canvas.fillRect(0, 0, 1, 1);
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const back = (one) => {
    const chain = [];
    for (let at = one; at; at = at.parentElement) chain.unshift(getComputedStyle(at).backgroundColor);
    return chain.reduce((under, colour) => `rgb(${rgb(colour, under).join(",")})`, "white");
  };
  const low = [];
  for (const one of document.querySelectorAll("body *")) {
    const has = [...one.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!has || one.closest(".sr-only, .skip, [disabled], noscript, dialog:not([open])")) continue;
    if (!one.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const [a, b] = [light(rgb(getComputedStyle(one).color, back(one))), light(rgb(back(one), "white"))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${one.tagName}.${one.className} ${ratio.toFixed(2)} ${one.textContent.slice(0, 30)}`);
  }
  return low;
}
