#include "services/common/types/names.h"

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/types/view.h"

namespace intermezzo {
namespace {

absl::Status CheckDnsLabel(std::string_view what, std::string_view text) {
  bool good = !text.empty() && text.size() <= 63 && text.front() != '-' && text.back() != '-';
  for (char c : text) good = good && (absl::ascii_islower(c) || absl::ascii_isdigit(c) || c == '-');
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(View(what), " name \"", absl::CHexEscape(View(text.substr(0, 80))),
                   "\" is not valid: use 1 to 63 of a-z, 0-9 and '-', with no '-' at either end"));
}

}  // namespace

absl::Status CollectionNameRule::Check(std::string_view text) {
  return CheckDnsLabel("collection", text);
}

absl::Status NodeNameRule::Check(std::string_view text) { return CheckDnsLabel("node", text); }

absl::Status EntryNameRule::Check(std::string_view text) {
  if (!text.empty() && text.size() <= 255 && text != "." && text != ".." &&
      text.find('/') == text.npos && text.find('\0') == text.npos) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("entry name \"", absl::CHexEscape(View(text.substr(0, 80))), "\" (", text.size(),
                   " bytes) is not valid: use 1 to 255 bytes without '/' and NUL, not . or .."));
}

}  // namespace intermezzo
