// Whether AMX may be used here: asked once per process, before threads work with tiles.
#pragma once

#include <string>

namespace qwell {

// "ok", or why AMX is off: the CPU has none, the kernel refuses, tiles compute wrongly, tiles are
// lost when the thread is interrupted (seen in virtual machines). The first call takes a few ms
// where there is AMX.
const std::string& amx_status();

}  // namespace qwell
