#include "services/mezzo/units.h"

#include <array>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "services/common/types/view.h"

namespace intermezzo::mezzo {

std::string HumanBytes(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  static constexpr std::array<const char*, 6> kUnits = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  // 1023.95 would print as 1024.0.
  while (value >= 1023.95 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string HumanDuration(absl::Duration duration) {
  if (duration <= absl::ZeroDuration()) return "0 s";
  if (duration < absl::Milliseconds(1)) {
    return absl::StrFormat("%.0f us", absl::ToDoubleMicroseconds(duration));
  }
  if (duration < absl::Seconds(1)) {
    return absl::StrFormat("%.1f ms", absl::ToDoubleMilliseconds(duration));
  }
  if (duration < absl::Minutes(1)) {
    return absl::StrFormat("%.1f s", absl::ToDoubleSeconds(duration));
  }
  const int64_t seconds = absl::ToInt64Seconds(duration);
  if (duration < absl::Hours(1)) return absl::StrFormat("%dm %02ds", seconds / 60, seconds % 60);
  if (duration < absl::Hours(24)) {
    return absl::StrFormat("%dh %02dm", seconds / 3600, seconds / 60 % 60);
  }
  return absl::StrFormat("%dd %dh", seconds / 86400, seconds / 3600 % 24);
}

std::string HumanCount(uint64_t count) {
  const std::string digits = absl::StrCat(count);
  std::string grouped;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) grouped += ',';
    grouped += digits[i];
  }
  return grouped;
}

std::string EscapeBytes(std::string_view bytes) { return absl::CEscape(View(bytes)); }

std::string Hex(std::string_view bytes) { return absl::BytesToHexString(View(bytes)); }

absl::StatusOr<absl::Duration> ParseTimeout(std::string_view text) {
  absl::Duration duration;
  double seconds = 0;
  if (absl::SimpleAtod(View(text), &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(View(text), &duration)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", View(text), "' is not a time: use a number of seconds, or 250ms, 10s, 1m30s"));
  }
  if (duration <= absl::ZeroDuration()) {
    return absl::InvalidArgumentError(absl::StrCat("'", View(text), "' is not more than zero"));
  }
  return duration;
}

}  // namespace intermezzo::mezzo
