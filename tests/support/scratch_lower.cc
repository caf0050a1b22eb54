#include "tests/support/scratch_lower.h"

#include <fcntl.h>
#include <linux/loop.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::tests {
namespace {

using sidecar::UniqueFd;

constexpr char kMountPoint[] = "/run/intermezzo-test-lower";
constexpr off_t kBytes = off_t{512} << 20;

[[noreturn]] void Fail(const std::string& what) {
  fprintf(stderr, "scratch file system: %s: %s\n", what.c_str(), strerror(errno));
  _exit(1);
}

// A sparse file that goes away with its last descriptor.
UniqueFd MakeImage() {
  std::string path = std::filesystem::temp_directory_path() / "intermezzo-image-XXXXXX";
  UniqueFd image(mkostemp(path.data(), O_CLOEXEC));
  if (!image) Fail(path);
  unlink(path.c_str());
  if (ftruncate(image.get(), kBytes) != 0) Fail("ftruncate of the image");
  return image;
}

// Attaches the image to a free loop device, which is freed with its last user.
UniqueFd Attach(int image, std::string& device) {
  UniqueFd control(open("/dev/loop-control", O_RDWR | O_CLOEXEC));
  if (!control) Fail("/dev/loop-control");
  struct loop_config config = {};
  config.fd = image;
  config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
  for (int attempt = 0; attempt < 100; ++attempt) {
    const int number = ioctl(control.get(), LOOP_CTL_GET_FREE);
    if (number < 0) Fail("LOOP_CTL_GET_FREE");
    device = absl::StrCat("/dev/loop", number);
    UniqueFd loop(open(device.c_str(), O_RDWR | O_CLOEXEC));
    if (!loop) Fail(device);
    if (ioctl(loop.get(), LOOP_CONFIGURE, &config) == 0) return loop;
    if (errno != EBUSY) Fail("LOOP_CONFIGURE");  // else: another process was faster
  }
  Fail("no loop device is free");
}

}  // namespace

void UseScratchLower(const std::string& kind) {
  if (kind != "ext4" && kind != "xfs" && kind != "btrfs" && kind != "tmpfs") {
    fprintf(stderr, "scratch file system: \"%s\" is not ext4, xfs, btrfs or tmpfs\n", kind.c_str());
    _exit(1);
  }
  if (unshare(CLONE_NEWNS) != 0) Fail("unshare(CLONE_NEWNS)");
  // In a chroot the root is no mount, but /run mostly is.
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 &&
      mount(nullptr, "/run", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    Fail("neither / nor /run can be made a private mount");
  }
  if (mkdir(kMountPoint, 0755) != 0 && errno != EEXIST) Fail(kMountPoint);
  std::string device = "tmpfs";
  std::string options = absl::StrCat("size=", kBytes);
  UniqueFd loop;
  if (kind != "tmpfs") {
    options.clear();
    loop = Attach(MakeImage().get(), device);
    const std::string make = absl::StrCat("mkfs.", kind, " -q ", device, " >&2");
    // The programs of Debian's packages are in /usr/sbin.
    if (system(absl::StrCat("PATH=$PATH:/usr/sbin:/sbin ", make).c_str()) != 0) Fail(make);
  }
  if (mount(device.c_str(), kMountPoint, kind.c_str(), 0, options.c_str()) != 0) {
    if (errno != ENODEV) Fail(absl::StrCat("mounting ", kind));
    fprintf(stderr, "skipped: the kernel has no %s\n", kind.c_str());
    _exit(kSkipped);
  }
  chmod(kMountPoint, 0755);
  setenv("TMPDIR", kMountPoint, /*overwrite=*/1);
}

}  // namespace intermezzo::tests
