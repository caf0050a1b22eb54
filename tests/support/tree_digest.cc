#include "tests/support/tree_digest.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "services/common/record/codec.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::tests {
namespace {

using sidecar::UniqueFd;

std::string Failed(const char* what) { return absl::StrCat("<", what, ": ", strerror(errno), ">"); }

std::string ContentOf(int fd, uint64_t size) {
  std::string bytes(size, '\0');
  size_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd, bytes.data() + done, size - done, static_cast<off_t>(done));
    if (n <= 0) return Failed("read");
    done += static_cast<size_t>(n);
  }
  return absl::BytesToHexString(Xxh3(bytes));
}

std::string HolesOf(int fd, off_t size) {
  std::string text;
  for (off_t at = 0; at < size;) {
    const off_t hole = lseek(fd, at, SEEK_HOLE);
    if (hole < 0 || hole >= size) break;
    off_t data = lseek(fd, hole, SEEK_DATA);
    if (data < 0) data = size;
    absl::StrAppend(&text, hole, "-", data, ",");
    at = data;
  }
  return text;
}

class Digester {
 public:
  explicit Digester(const TreeDigestOptions& options) : options_(options) {}

  void Visit(int dir_fd, const std::string& name, const std::string& path) {
    UniqueFd fd(openat(dir_fd, name.c_str(), O_PATH | O_NOFOLLOW));
    struct stat st;
    if (!fd || fstat(fd.get(), &st) != 0) {
      lines_[path] = Failed("open");
      return;
    }
    std::string line =
        absl::StrCat("mode=", absl::Hex(st.st_mode), " owner=", st.st_uid, ":", st.st_gid);
    if (options_.mtimes) {
      absl::StrAppend(&line, " mtime=", st.st_mtim.tv_sec, ".", st.st_mtim.tv_nsec);
    }
    auto xattrs = sidecar::ReadXattrs(fd.get());
    if (!xattrs.ok()) absl::StrAppend(&line, " xattrs=", xattrs.status().ToString());
    if (xattrs.ok()) {
      for (const auto& xattr : *xattrs) {
        absl::StrAppend(&line, " ", xattr.name(), "=", absl::BytesToHexString(xattr.value()));
      }
    }
    if (!S_ISDIR(st.st_mode)) {
      // Paths are visited in one order on both sides: the first names the group.
      const std::string& first = groups_.emplace(st.st_ino, path).first->second;
      absl::StrAppend(&line, " links=", st.st_nlink, " group=", first);
    }
    if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) absl::StrAppend(&line, " rdev=", st.st_rdev);
    if (S_ISLNK(st.st_mode)) {
      char target[PATH_MAX];
      const ssize_t n = readlinkat(fd.get(), "", target, sizeof(target));
      absl::StrAppend(&line, " target=", std::string(target, n < 0 ? 0 : n));
    }
    const std::string again = sidecar::DescriptorPath(fd.get());
    if (S_ISREG(st.st_mode)) {
      UniqueFd file(open(again.c_str(), O_RDONLY));
      absl::StrAppend(&line, " size=", st.st_size,
                      " content=", file ? ContentOf(file.get(), st.st_size) : Failed("open"));
      if (options_.holes && file) {
        absl::StrAppend(&line, " holes=", HolesOf(file.get(), st.st_size));
      }
    }
    lines_[path] = line;
    if (!S_ISDIR(st.st_mode)) return;
    UniqueFd dir(open(again.c_str(), O_RDONLY | O_DIRECTORY));
    for (const std::string& child : Children(dir.get())) {
      Visit(dir.get(), child, path == "." ? child : absl::StrCat(path, "/", child));
    }
  }

  std::map<std::string, std::string> Take() { return std::move(lines_); }

 private:
  static std::vector<std::string> Children(int dir_fd) {
    std::vector<std::string> names;
    DIR* dir = fdopendir(dup(dir_fd));
    if (dir == nullptr) return names;
    while (const dirent* entry = readdir(dir)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    closedir(dir);
    std::sort(names.begin(), names.end());
    return names;
  }

  const TreeDigestOptions options_;
  std::map<ino_t, std::string> groups_;
  std::map<std::string, std::string> lines_;
};

}  // namespace

std::map<std::string, std::string> DigestTree(const std::string& root,
                                              const TreeDigestOptions& options) {
  Digester digester(options);
  digester.Visit(AT_FDCWD, root, ".");
  return digester.Take();
}

std::vector<std::string> CompareTrees(const std::string& a, const std::string& b,
                                      const TreeDigestOptions& options, size_t limit) {
  const auto lines_a = DigestTree(a, options);
  const auto lines_b = DigestTree(b, options);
  std::vector<std::string> differences;
  auto add = [&](std::string line) {
    if (differences.size() < limit) differences.push_back(std::move(line));
  };
  for (const auto& [path, line] : lines_a) {
    auto other = lines_b.find(path);
    if (other == lines_b.end()) {
      add(absl::StrCat(path, ": only in ", a));
    } else if (other->second != line) {
      add(absl::StrCat(path, ":\n  ", line, "\n  ", other->second));
    }
  }
  for (const auto& [path, line] : lines_b) {
    if (!lines_a.contains(path)) add(absl::StrCat(path, ": only in ", b));
  }
  return differences;
}

}  // namespace intermezzo::tests
