// /dev/fuse and the mount, held apart from libfuse so that another process may own the descriptor
// one day, and so that what libfuse does not know can be added: the INIT reply is patched on its
// way to the kernel (HANDLE_KILLPRIV_V2).
//
// Owned by the driver. Mount() and Unmount() are called by one thread; the io functions by any.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"

struct fuse_session;
struct fuse_buf;

namespace intermezzo::sidecar {

// What a request says that libfuse does not pass on.
struct RequestPeek {
  uint32_t opcode = 0;
  // READ or WRITE.
  bool pages = false;
  // Caller may not keep set-id bits (FUSE_WRITE_KILL_SUIDGID, FATTR_KILL_SUIDGID).
  bool kill_suidgid = false;
};

// Reads the head of a request as it came from the kernel.
RequestPeek PeekRequest(const struct fuse_buf& request);

class Device;

// What a session's user data must point to: libfuse hands it to the io functions, too.
class DeviceOwner {
 public:
  virtual ~DeviceOwner() = default;
  virtual Device& device() = 0;
};

class Device {
 public:
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  // Opens /dev/fuse and mounts it. A dead mount at the mount point is unmounted first. The
  // descriptor belongs to `session` afterwards, whose user data is this device's DeviceOwner.
  // FAILED_PRECONDITION says what is missing.
  absl::Status Mount(struct fuse_session* session, const std::string& mount_point,
                     const std::string& source);
  // Unmounts; busy until `grace` has passed: aborts the connection and detaches the mount.
  void Unmount(absl::Duration grace);

  int fd() const { return fd_; }
  bool mounted() const { return mounted_; }
  // The kernel accepted HANDLE_KILLPRIV_V2: it leaves clearing set-id bits to us.
  bool killpriv_v2() const { return killpriv_v2_; }
  // Minor version of the kernel's protocol; 0 before INIT.
  uint32_t kernel_minor() const { return kernel_minor_; }

  // Sends a notification that libfuse cannot send. errno, negative.
  int Notify(int code);

 private:
  static ssize_t Read(int fd, void* buf, size_t length, void* userdata);
  static ssize_t Write(int fd, struct iovec* iov, int count, void* userdata);

  int fd_ = -1;
  std::string mount_point_;
  std::atomic<bool> mounted_{false};
  std::atomic<uint64_t> init_unique_{0};
  std::atomic<bool> killpriv_offered_{false};
  std::atomic<bool> killpriv_v2_{false};
  std::atomic<uint32_t> kernel_minor_{0};
};

}  // namespace intermezzo::sidecar
