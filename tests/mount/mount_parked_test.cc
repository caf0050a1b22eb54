// Updates that meet a closed gate wait without holding anything up, and are answered when it opens,
// when they are failed, or when their caller is killed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <functional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "services/common/record/codec.h"
#include "services/common/status/errno.h"
#include "tests/support/eventually.h"
#include "tests/support/mounted_replica.h"

namespace intermezzo::tests {
namespace {

int Errno(int result) { return result < 0 ? errno : 0; }

class MountParkedTest : public ::testing::Test {
 protected:
  std::string Mnt(const std::string& name) { return mount_.Mnt(name); }
  std::string Low(const std::string& name) { return mount_.Low(name); }
  bool WaitParked(int count) {
    return Eventually([&] { return mount_.presto().parked_requests() == count; });
  }
  MountedReplica mount_;
};

// The operation that thread `i` makes in its own directory.
int Operation(int i, const std::string& dir) {
  switch (i % 8) {
    case 0:
      return WriteFile(dir + "/new", "new");
    case 1: {
      const int fd = open((dir + "/old").c_str(), O_WRONLY);
      const int error = Errno(pwrite(fd, "written", 7, 0));
      close(fd);
      return error;
    }
    case 2:
      return Errno(rename((dir + "/old").c_str(), (dir + "/renamed").c_str()));
    case 3:
      return Errno(unlink((dir + "/old").c_str()));
    case 4:
      return Errno(mkdir((dir + "/sub").c_str(), 0755));
    case 5:
      return Errno(truncate((dir + "/old").c_str(), 1));
    case 6:
      return Errno(chmod((dir + "/old").c_str(), 0600));
    default:
      return Errno(setxattr((dir + "/old").c_str(), "user.x", "y", 1, 0));
  }
}

TEST_F(MountParkedTest, TwoHundredWaitAndAllSucceed) {
  constexpr int kThreads = 200;
  for (int i = 0; i < kThreads; ++i) {
    ASSERT_EQ(mkdir(Mnt("d" + std::to_string(i)).c_str(), 0755), 0);
    ASSERT_EQ(WriteFile(Mnt("d" + std::to_string(i) + "/old"), "old"), 0);
  }
  ASSERT_EQ(WriteFile(Mnt("other"), "readable"), 0);
  const size_t before = mount_.Records().size();
  mount_.CloseGate();
  std::vector<std::jthread> threads;
  std::atomic<int> succeeded{0};
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] { succeeded += Operation(i, Mnt("d" + std::to_string(i))) == 0; });
  }
  ASSERT_TRUE(WaitParked(kThreads));
  // Far more wait than there are threads, and reading goes on.
  EXPECT_EQ(ReadFile(Mnt("other")), "readable");
  struct stat st;
  EXPECT_EQ(stat(Mnt("d7/old").c_str(), &st), 0);
  EXPECT_EQ(Errno(stat(Mnt("nothing").c_str(), &st)), ENOENT);
  EXPECT_EQ(succeeded, 0);
  EXPECT_EQ(mount_.Records().size(), before);

  mount_.OpenGate();
  for (std::jthread& each : threads) each.join();
  EXPECT_EQ(succeeded, kThreads);
  EXPECT_TRUE(WaitParked(0));
  // 25 of each; a new file is a create and a write.
  EXPECT_EQ(mount_.Records().size(), before + kThreads + kThreads / 8);
  EXPECT_EQ(ReadFile(Low("d0/new")), "new");
  EXPECT_EQ(ReadFile(Low("d1/old")), "written");
  EXPECT_EQ(ReadFile(Low("d2/renamed")), "old");
}

TEST_F(MountParkedTest, SixteenInOneDirectory) {
  mount_.CloseGate();
  std::vector<std::jthread> threads;
  std::atomic<int> succeeded{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back(
        [&, i] { succeeded += WriteFile(Mnt("f" + std::to_string(i)), "x") == 0; });
  }
  // The kernel lets one in at a time: the directory is locked.
  ASSERT_TRUE(WaitParked(1));
  mount_.OpenGate();
  for (std::jthread& each : threads) each.join();
  EXPECT_EQ(succeeded, 16);
}

TEST_F(MountParkedTest, LargeWritesKeepTheirBytes) {
  const int fd = open(Mnt("f").c_str(), O_CREAT | O_RDWR, 0644);
  mount_.CloseGate();
  std::string bytes(3 << 20, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 13);
  std::jthread writer([&] {
    EXPECT_EQ(pwrite(fd, bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  });
  ASSERT_TRUE(WaitParked(1));
  EXPECT_EQ(ReadFile(Mnt("none")), "");  // other requests pass through the same buffers
  mount_.OpenGate();
  writer.join();
  close(fd);
  EXPECT_TRUE(ReadFile(Low("f")) == bytes);
}

// More wait with bytes than memory is given to them, and more than that and the disk's part.
TEST(MountParkedBytesTest, AreBounded) {
  constexpr size_t kBytes = 1 << 20;
  constexpr int kWriters = 12;
  MountedReplica mount({.parked_bytes = 2 * kBytes, .spill_bytes = 8 * kBytes});
  std::vector<int> files;
  for (int i = 0; i < kWriters; ++i) {
    files.push_back(open(mount.Mnt("f" + std::to_string(i)).c_str(), O_CREAT | O_RDWR, 0644));
    ASSERT_GE(files.back(), 0);
  }
  mount.CloseGate();
  std::vector<std::jthread> threads;
  std::atomic<int> done{0};
  std::atomic<int> refused{0};
  for (int i = 0; i < kWriters; ++i) {
    threads.emplace_back([&, i] {
      const std::string bytes(kBytes, static_cast<char>('a' + i));
      const ssize_t n = pwrite(files[i], bytes.data(), bytes.size(), 0);
      if (n == static_cast<ssize_t>(kBytes)) ++done;
      if (n < 0 && errno == EAGAIN) ++refused;
    });
  }
  const int waiting = kWriters - 2;
  ASSERT_TRUE(Eventually([&] {
    return mount.presto().parked_requests() == waiting && refused == kWriters - waiting;
  }));
  EXPECT_EQ(mount.presto().parked_memory(), 2 * kBytes);
  EXPECT_EQ(mount.presto().parked_file(), 8 * kBytes);
  // No thread of the driver waits.
  struct stat st;
  EXPECT_EQ(stat(mount.Mnt("f0").c_str(), &st), 0);
  EXPECT_EQ(st.st_size, 0);

  mount.OpenGate();
  for (std::jthread& each : threads) each.join();
  EXPECT_EQ(done, waiting);
  EXPECT_TRUE(Eventually(
      [&] { return mount.presto().parked_memory() == 0 && mount.presto().parked_file() == 0; }));
  int right = 0;
  for (int i = 0; i < kWriters; ++i) {
    close(files[i]);
    const std::string bytes = ReadFile(mount.Low("f" + std::to_string(i)));
    if (bytes.empty()) continue;
    EXPECT_TRUE(bytes == std::string(kBytes, static_cast<char>('a' + i))) << i;
    ++right;
  }
  EXPECT_EQ(right, waiting);
}

TEST_F(MountParkedTest, FailedOnesGetTheErrno) {
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  mount_.CloseGate();
  for (int error : {EROFS, ETIMEDOUT}) {
    std::vector<std::jthread> threads;
    std::vector<int> results(3, -1);
    threads.emplace_back([&] { results[0] = Errno(mkdir(Mnt("d").c_str(), 0755)); });
    threads.emplace_back([&] {
      const int fd = open(Mnt("f").c_str(), O_WRONLY);
      results[1] = Errno(pwrite(fd, "y", 1, 0));
      close(fd);
    });
    threads.emplace_back(
        [&] { results[2] = Errno(setxattr(Mnt("").c_str(), "user.x", "", 0, 0)); });
    // mkdir and setxattr both lock the directory.
    ASSERT_TRUE(WaitParked(2));
    std::atomic<bool> done{false};
    std::jthread failing([&] {
      while (!done) {
        mount_.replica().gate().FailParked(StatusFromErrno(error, "no token"));
        std::this_thread::yield();
      }
    });
    for (std::jthread& each : threads) each.join();
    done = true;
    failing.join();
    EXPECT_EQ(results, std::vector<int>(3, error));
  }
  EXPECT_EQ(ReadFile(Low("f")), "x");
  EXPECT_EQ(ReadFile(Mnt("f")), "x");
}

pid_t Fork(const std::function<int()>& work) {
  const pid_t pid = fork();
  if (pid == 0) _exit(work());
  return pid;
}

TEST_F(MountParkedTest, KilledCallersGo) {
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  const size_t before = mount_.Records().size();
  mount_.CloseGate();
  const pid_t maker = Fork([&] { return Errno(mkdir(Mnt("d").c_str(), 0755)); });
  const pid_t writer = Fork([&] {
    const int fd = open(Mnt("f").c_str(), O_WRONLY);
    return Errno(pwrite(fd, "lost", 4, 0));
  });
  ASSERT_TRUE(WaitParked(2));
  kill(maker, SIGKILL);
  kill(writer, SIGTERM);  // fatal too
  int status = 0;
  EXPECT_EQ(waitpid(maker, &status, 0), maker);
  EXPECT_EQ(WTERMSIG(status), SIGKILL);
  EXPECT_EQ(waitpid(writer, &status, 0), writer);
  EXPECT_EQ(WTERMSIG(status), SIGTERM);
  EXPECT_TRUE(WaitParked(0));
  mount_.OpenGate();
  // The gate resumes what it kept; nothing may come of it.
  ASSERT_EQ(WriteFile(Mnt("after"), "x"), 0);
  struct stat st;
  EXPECT_EQ(Errno(stat(Mnt("d").c_str(), &st)), ENOENT);
  EXPECT_EQ(ReadFile(Mnt("f")), "x");
  EXPECT_EQ(mount_.Records().size(), before + 2);
}

TEST_F(MountParkedTest, OtherSignalsDoNotInterrupt) {
  // In a directory of its own: nobody can look up new names where an update waits.
  ASSERT_EQ(mkdir(Mnt("sub").c_str(), 0755), 0);
  mount_.CloseGate();
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  const pid_t maker = Fork([&] {
    static int handled;
    handled = pipes[1];
    signal(SIGUSR1, [](int) {
      if (write(handled, "s", 1) != 1) _exit(99);
    });
    return Errno(mkdir(Mnt("sub/d").c_str(), 0755));
  });
  ASSERT_TRUE(WaitParked(1));
  kill(maker, SIGUSR1);
  struct stat st;  // messages after the interrupt have been served
  EXPECT_EQ(Errno(stat(Mnt("nothing").c_str(), &st)), ENOENT);
  EXPECT_EQ(mount_.presto().parked_requests(), 1);
  mount_.OpenGate();
  int status = 0;
  EXPECT_EQ(waitpid(maker, &status, 0), maker);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  char byte;
  EXPECT_EQ(read(pipes[0], &byte, 1), 1);
  close(pipes[0]);
  close(pipes[1]);
  EXPECT_EQ(stat(Mnt("sub/d").c_str(), &st), 0);
}

TEST_F(MountParkedTest, UnmountAnswersThem) {
  mount_.CloseGate();
  int result = -1;
  std::jthread maker([&] { result = Errno(mkdir(Mnt("d").c_str(), 0755)); });
  ASSERT_TRUE(WaitParked(1));
  mount_.replica().gate().FailParked(StatusFromErrno(EROFS, "going away"));
  mount_.Unmount();
  maker.join();
  EXPECT_EQ(result, EROFS);
}

TEST_F(MountParkedTest, UnmountEndsABusyMount) {
  ASSERT_EQ(WriteFile(Mnt("f"), "x"), 0);
  const int fd = open(Mnt("f").c_str(), O_RDONLY);
  mount_.Unmount();
  char byte;
  EXPECT_EQ(Errno(pread(fd, &byte, 1, 0)), ENOTCONN);
  close(fd);
  ASSERT_TRUE(mount_.Mount().ok());
  EXPECT_EQ(ReadFile(Mnt("f")), "x");
}

}  // namespace
}  // namespace intermezzo::tests
