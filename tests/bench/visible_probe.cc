// How long after an update begins on one directory is it to be seen in another?
//
//   visible_probe --write DIR --watch DIR --operation OPERATION --count N [--poll] [--pause-ms N]
//
// OPERATION: create (1 KiB), append (1 KiB), overwrite (4 KiB in place), rename, unlink. The clock
// runs from before the first system call of the update until the watcher, a thread of this process,
// sees its whole effect: name and full content. It waits by inotify, or with --poll (a FUSE mount
// raises no events for what others did) by looking every 20 us. One line a sample: microseconds.
// Each sample waits for the one before to be seen, so the system is idle but for it; at most 60 s.
#include <fcntl.h>
#include <poll.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <map>
#include <mutex>
#include <random>
#include <string>
#include <thread>

namespace {

using Clock = std::chrono::steady_clock;

// Not IN_OPEN or IN_ACCESS: the watcher's own looks would wake it.
constexpr uint32_t kEvents =
    IN_CREATE | IN_MODIFY | IN_ATTRIB | IN_CLOSE_WRITE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO;

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "visible_probe: " << what << ": " << strerror(errno) << std::endl;
  std::exit(1);
}

std::string RandomBytes(size_t size) {
  static std::mt19937_64 random{std::random_device{}()};
  std::string bytes(size, '\0');
  for (char& c : bytes) c = static_cast<char>(random());
  return bytes;
}

void WriteAt(const std::string& path, int flags, const std::string& bytes, off_t offset) {
  const int fd = open(path.c_str(), flags | O_CLOEXEC, 0644);
  if (fd < 0) Die("open " + path);
  const ssize_t n = (flags & O_APPEND) != 0 ? write(fd, bytes.data(), bytes.size())
                                            : pwrite(fd, bytes.data(), bytes.size(), offset);
  if (n != static_cast<ssize_t>(bytes.size())) Die("write " + path);
  if (close(fd) != 0) Die("close " + path);
}

// True where the file holds exactly `bytes` at `offset`.
bool Holds(const std::string& path, const std::string& bytes, off_t offset) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  std::string there(bytes.size(), '\0');
  const ssize_t n = pread(fd, there.data(), there.size(), offset);
  close(fd);
  return n == static_cast<ssize_t>(bytes.size()) && there == bytes;
}

bool Exists(const std::string& path) {
  struct stat st;
  return lstat(path.c_str(), &st) == 0;
}

// Sees a condition become true in a directory, and when.
class Watcher {
 public:
  Watcher(const std::string& directory, bool by_polling) : by_polling_(by_polling) {
    prctl(PR_SET_TIMERSLACK, 1UL);
    if (by_polling_) return;
    inotify_ = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (inotify_ < 0 || inotify_add_watch(inotify_, directory.c_str(), kEvents) < 0) {
      Die("inotify on " + directory);
    }
  }

  Clock::time_point Await(const std::function<bool()>& seen) {
    const Clock::time_point give_up = Clock::now() + std::chrono::seconds(60);
    while (!seen()) {
      if (Clock::now() > give_up) {
        errno = ETIMEDOUT;
        Die("the update was not seen");
      }
      if (by_polling_) {
        std::this_thread::sleep_for(std::chrono::microseconds(20));
        continue;
      }
      // An event that came before the last look is read late at most: the look follows each.
      pollfd fd = {inotify_, POLLIN, 0};
      poll(&fd, 1, 100);
      char events[4096];
      while (read(inotify_, events, sizeof(events)) > 0) {
      }
    }
    return Clock::now();
  }

 private:
  const bool by_polling_;
  int inotify_ = -1;
};

struct Update {
  std::function<void()> make;
  std::function<bool()> seen;
};

// The n-th update of an operation; `prepare` ones are made before the clock runs.
class Operations {
 public:
  Operations(std::string write_dir, std::string watch_dir, std::string operation)
      : write_(std::move(write_dir)), watch_(std::move(watch_dir)), operation_(operation) {}

  // What must be there before sample n, or nothing.
  Update Before(int n) {
    if (operation_ == "create") return {};
    if ((operation_ == "append" || operation_ == "overwrite") && n > 0) return {};
    const std::string name = operation_ == "append" || operation_ == "overwrite" ? "file" : Name(n);
    const std::string bytes = RandomBytes(operation_ == "overwrite" ? 65536 : 1024);
    return {[=, this] { WriteAt(write_ + name, O_CREAT | O_WRONLY | O_TRUNC, bytes, 0); },
            [=, this] { return Holds(watch_ + name, bytes, 0); }};
  }

  Update Sample(int n) {
    if (operation_ == "create") {
      const std::string bytes = RandomBytes(1024);
      return {[=, this] { WriteAt(write_ + Name(n), O_CREAT | O_EXCL | O_WRONLY, bytes, 0); },
              [=, this] { return Holds(watch_ + Name(n), bytes, 0); }};
    }
    if (operation_ == "append") {
      const std::string bytes = RandomBytes(1024);
      return {[=, this] { WriteAt(write_ + "file", O_WRONLY | O_APPEND, bytes, 0); },
              [=, this] { return Holds(watch_ + "file", bytes, 1024 * (n + 1)); }};
    }
    if (operation_ == "overwrite") {
      const std::string bytes = RandomBytes(4096);
      const off_t offset = n % 16 * 4096;
      return {[=, this] { WriteAt(write_ + "file", O_WRONLY, bytes, offset); },
              [=, this] { return Holds(watch_ + "file", bytes, offset); }};
    }
    if (operation_ == "rename") {
      return {[=, this] {
                if (rename((write_ + Name(n)).c_str(), (write_ + Name(n) + ".new").c_str()) != 0) {
                  Die("rename");
                }
              },
              [=, this] { return Exists(watch_ + Name(n) + ".new") && !Exists(watch_ + Name(n)); }};
    }
    if (operation_ == "unlink") {
      return {[=, this] {
                if (unlink((write_ + Name(n)).c_str()) != 0) Die("unlink");
              },
              [=, this] { return !Exists(watch_ + Name(n)); }};
    }
    errno = EINVAL;
    Die("unknown operation " + operation_);
  }

 private:
  static std::string Name(int n) { return "f" + std::to_string(n); }

  const std::string write_;
  const std::string watch_;
  const std::string operation_;
};

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options;
  bool by_polling = false;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--poll") {
      by_polling = true;
    } else if (i + 1 < argc) {
      options[argv[i]] = argv[i + 1];
      ++i;
    }
  }
  if (options["--write"].empty() || options["--watch"].empty() || options["--operation"].empty()) {
    std::cerr << "usage: visible_probe --write DIR --watch DIR --operation OPERATION --count N"
                 " [--poll] [--pause-ms N]\n";
    return 2;
  }
  const int count = std::max(1, std::atoi(options["--count"].c_str()));
  const int pause_ms = options.count("--pause-ms") ? std::atoi(options["--pause-ms"].c_str()) : 5;

  Watcher watcher(options["--watch"], by_polling);
  Operations operations(options["--write"] + "/", options["--watch"] + "/", options["--operation"]);
  for (int n = 0; n < count; ++n) {
    if (const Update before = operations.Before(n); before.make) {
      before.make();
      watcher.Await(before.seen);
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));  // idle again
    const Update sample = operations.Sample(n);
    // The watcher waits already when the update begins, as a reader would.
    Clock::time_point begin;
    std::mutex mutex;
    std::condition_variable ready;
    bool watching = false;
    Clock::time_point seen;
    std::thread watching_thread([&] {
      {
        std::lock_guard lock(mutex);
        watching = true;
      }
      ready.notify_one();
      seen = watcher.Await(sample.seen);
    });
    {
      std::unique_lock lock(mutex);
      ready.wait(lock, [&] { return watching; });
    }
    begin = Clock::now();
    sample.make();
    watching_thread.join();
    printf("%.1f\n", std::chrono::duration<double, std::micro>(seen - begin).count());
  }
  return 0;
}
