#include "tests/support/random_operations.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace intermezzo::tests {

std::string RandomOperations::Path(const TestNode& node) {
  std::vector<std::string> there;
  std::vector<std::string> directories = {""};
  const std::string& root = node.lower_path();
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    std::string path = entry.path().string().substr(root.size() + 1);
    if (entry.symlink_status().type() == std::filesystem::file_type::directory) {
      directories.push_back(path + "/");
    }
    there.push_back(std::move(path));
  }
  std::sort(there.begin(), there.end());
  std::sort(directories.begin(), directories.end());
  static const char* const kNames[] = {"a", "b", "c", "dir", "e f", "\xc3\xa9"};
  if (!there.empty() && Below(2) == 0) return there[Below(there.size())];
  return absl::StrCat(directories[Below(directories.size())], kNames[Below(6)]);
}

int RandomOperations::Step(TestNode& node, std::string& what) {
  const std::string path = Path(node);
  const mode_t mode = static_cast<mode_t>(Below(010000));
  const uint64_t kind = Below(24);
  what = absl::StrCat("op ", kind, " on ", path);
  switch (kind) {
    case 0:
    case 1:
    case 2:
      return node.Create(path, mode);
    case 3:
    case 4:
    case 5:
      return node.Mkdir(path, mode);
    case 6:
      return node.Symlink(Path(node), path);
    case 7:
      // A major number that nothing has.
      return Below(2) == 0 ? node.Mknod(path, S_IFIFO | mode, 0)
                           : node.Mknod(path, S_IFCHR | mode, makedev(3000, Below(1 << 20)));
    case 8:
      return node.Link(Path(node), path);
    case 9:
      return node.Unlink(path);
    case 10:
      return node.Rmdir(path);
    case 11:
    case 12:
    case 13: {
      static const unsigned kFlags[] = {0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT};
      return node.Rename(path, Path(node), kFlags[Below(5)]);
    }
    case 14:
    case 15:
    case 16:
      return node.Write(
          path, Below(300'000),
          std::string(1 + Below(Below(4) == 0 ? 200'000 : 50), static_cast<char>('a' + Below(26))));
    case 17:
      return node.Truncate(path, Below(400'000));
    case 18: {
      static const int kModes[] = {
          0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE};
      return node.Fallocate(path, kModes[Below(4)], Below(200'000), 1 + Below(100'000));
    }
    case 19:
      return node.Chmod(path, mode);
    case 20:
      return node.Chown(path, static_cast<uid_t>(Below(70'000)), static_cast<gid_t>(Below(10)));
    case 21:
      return node.Utimens(path, {static_cast<time_t>(Below(1 << 30)), 7},
                          {static_cast<time_t>(Below(1 << 30)), static_cast<long>(Below(999))});
    case 22:
      return node.Setxattr(path, absl::StrCat(Below(2) == 0 ? "user.x" : "trusted.x", Below(3)),
                           std::string(Below(500), 'v'));
    default:
      return node.Removexattr(path, absl::StrCat("user.x", Below(3)));
  }
}

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  uint64_t value = 0;
  const char* text = std::getenv(name);
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

}  // namespace intermezzo::tests
