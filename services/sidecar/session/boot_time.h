// The clock that leases are counted by.
#pragma once

#include <time.h>

#include "absl/time/time.h"

namespace intermezzo::sidecar {

// CLOCK_BOOTTIME: never set, and it goes on while the machine sleeps, as the server's does.
inline absl::Duration BootTime() {
  struct timespec ts;
  clock_gettime(CLOCK_BOOTTIME, &ts);
  return absl::DurationFromTimespec(ts);
}

}  // namespace intermezzo::sidecar
