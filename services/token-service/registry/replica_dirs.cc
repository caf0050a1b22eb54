#include "services/token-service/registry/replica_dirs.h"

#include <limits.h>

#include <string_view>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "services/common/types/view.h"

namespace intermezzo::token {
namespace {

absl::Status CheckDir(std::string_view field, const std::string& dir) {
  if (dir.empty()) return absl::OkStatus();
  bool good = dir.size() > 1 && dir.size() < PATH_MAX && dir.front() == '/' &&
              dir.find('\0') == std::string::npos;
  if (good) {
    for (absl::string_view part : absl::StrSplit(absl::string_view(dir).substr(1), '/')) {
      good = good && !part.empty() && part != "." && part != ".." && part.size() <= NAME_MAX;
    }
  }
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(View(field), " \"", absl::CHexEscape(dir.substr(0, 200)),
                   "\" is not valid: use an absolute path below /, without \"//\", \".\", \"..\" "
                   "or a slash at the end"));
}

bool Below(const std::string& dir, const std::string& other) {
  return dir == other || absl::StartsWith(dir, absl::StrCat(other, "/"));
}

}  // namespace

bool DirsOverlap(const std::string& a, const std::string& b) {
  return !a.empty() && !b.empty() && (Below(a, b) || Below(b, a));
}

absl::Status CheckReplicaDirs(const std::string& lower_dir, const std::string& mount_dir) {
  if (absl::Status status = CheckDir("lower_dir", lower_dir); !status.ok()) return status;
  if (absl::Status status = CheckDir("mount_dir", mount_dir); !status.ok()) return status;
  if (!DirsOverlap(lower_dir, mount_dir)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("lower_dir \"", lower_dir, "\" and mount_dir \"", mount_dir,
                   "\" lie in each other: use two separate directories"));
}

}  // namespace intermezzo::token
