#include "services/mezzo/poll.h"

#include <algorithm>

#include "absl/time/clock.h"

namespace intermezzo::mezzo {

bool PollUntil(absl::Time deadline, const std::function<bool()>& done) {
  absl::Duration pause = absl::Milliseconds(20);
  while (!done()) {
    const absl::Duration left = deadline - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    absl::SleepFor(std::min(pause, left));
    pause = std::min(pause * 2, absl::Milliseconds(500));
  }
  return true;
}

}  // namespace intermezzo::mezzo
