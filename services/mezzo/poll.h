// Asks again until it is so, or the time is over.
#pragma once

#include <functional>

#include "absl/time/time.h"

namespace intermezzo::mezzo {

// Calls `done` until it returns true (true) or `deadline` has passed (false); waits 20 ms between
// calls at first, then longer, up to 500 ms.
bool PollUntil(absl::Time deadline, const std::function<bool()>& done);

}  // namespace intermezzo::mezzo
