#include "services/common/runner/signals.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>

#include "absl/time/clock.h"
#include "services/common/log/log.h"

namespace intermezzo {
namespace {

sigset_t OurSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

Signals::Signals(absl::Duration limit) : limit_(limit) {
  const sigset_t set = OurSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  // A peer that closes a socket is an error of the write, not the end of the process.
  signal(SIGPIPE, SIG_IGN);
  thread_ = std::thread([this] { Run(); });
}

Signals::~Signals() {
  stopping_ = true;
  pthread_kill(thread_.native_handle(), SIGINT);
  thread_.join();
}

int Signals::Wait() {
  received_.WaitForNotification();
  return signal_;
}

void Signals::Run() {
  const sigset_t set = OurSignals();
  int received = 0;
  while (sigwait(&set, &received) != 0) {
  }
  if (stopping_) return;
  signal_ = received;
  received_.Notify();

  const absl::Time deadline = absl::Now() + limit_;
  for (;;) {
    const timespec left = absl::ToTimespec(std::max(deadline - absl::Now(), absl::ZeroDuration()));
    const int second = sigtimedwait(&set, nullptr, &left);
    if (stopping_) return;
    if (second < 0 && errno == EINTR) continue;
    log::Error(second < 0 ? "the drain did not end in time; leaving" : "second signal; leaving");
    _exit(1);
  }
}

}  // namespace intermezzo
