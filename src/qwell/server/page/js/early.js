// Runs before the first paint, so that a dark page never flashes white. Not a module: those run late.
try {
  const theme = localStorage.getItem("qwell.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // No storage: the system's colours.
}
