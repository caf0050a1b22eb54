// A file system of a chosen kind for the temporary files of a test program: lower directories,
// databases and mount points. It is a loop device over a sparse file that has no name, mounted in a
// mount namespace of this process: nothing is left behind however the process ends (but the empty
// directory /run/intermezzo-test-lower).
#pragma once

#include <string>

namespace intermezzo::tests {

// Exit code of a test program whose file system the kernel does not have (ctest's
// SKIP_RETURN_CODE).
inline constexpr int kSkipped = 77;

// Makes a file system of `kind` (ext4, xfs, btrfs, tmpfs; 512 MiB) this process' TMPDIR. To be
// called before there are other threads. Ends the process where that fails: 1, or kSkipped.
void UseScratchLower(const std::string& kind);

}  // namespace intermezzo::tests
