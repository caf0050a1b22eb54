// Sizes, times and bytes as people read them. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace intermezzo::mezzo {

// "0 B", "999 B", "1.4 KiB", "12.0 MiB".
std::string HumanBytes(uint64_t bytes);
// "0 s", "850 us", "3.2 ms", "4.1 s", "2m 03s", "5h 10m", "3d 4h". Negative: "0 s".
std::string HumanDuration(absl::Duration duration);
// 1234567 as "1,234,567".
std::string HumanCount(uint64_t count);
// The bytes with everything that is not printable ASCII, and the backslash, as C escapes.
std::string EscapeBytes(std::string_view bytes);
// Lower case hexadecimal.
std::string Hex(std::string_view bytes);

// "10s", "1m30s", "250ms", or a plain number of seconds; more than zero.
// INVALID_ARGUMENT says what is allowed.
absl::StatusOr<absl::Duration> ParseTimeout(std::string_view text);

}  // namespace intermezzo::mezzo
