// Debian's abseil is built with a string_view of its own; these go between it and the standard's:
// absl::StrCat(View(text)), log::Error(View(status.message())).
#pragma once

#include <string_view>

#include "absl/strings/string_view.h"

namespace intermezzo {

inline absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }
inline std::string_view View(absl::string_view text) { return {text.data(), text.size()}; }

}  // namespace intermezzo
