// Prints a tree's content and full metadata, one line a path in a fixed order, so that two trees
// are the same exactly where their outputs are. Shares nothing with the services: it is the tour's
// second opinion.
//
//   tree_listing DIR
//
// A line: path, kind, mode, uid, gid, mtime with ns, size, content hash, data ranges, device, link
// group (first path of the same inode where it has several), link target, xattrs with values.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <string>
#include <vector>

namespace {

[[noreturn]] void Die(const char* what, const std::string& path) {
  std::cerr << "tree_listing: " << what << " " << path << ": " << strerror(errno) << std::endl;
  std::exit(1);
}

// FNV-1a, 64 bit: enough to tell trees apart that nobody made to collide.
class Hash {
 public:
  void Add(const char* bytes, size_t size) {
    for (size_t i = 0; i < size; ++i) {
      value_ = (value_ ^ static_cast<unsigned char>(bytes[i])) * 0x100000001b3;
    }
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xcbf29ce484222325;
};

// Blanks, control and other bytes as \xx.
std::string Escape(const std::string& bytes) {
  std::string text;
  for (const char c : bytes) {
    if (c > ' ' && c < 127 && c != '\\') {
      text += c;
    } else {
      char escaped[5];
      snprintf(escaped, sizeof(escaped), "\\%02x", static_cast<unsigned char>(c));
      text += escaped;
    }
  }
  return text;
}

std::string Xattrs(const std::string& path) {
  std::string names(65536, '\0');
  const ssize_t size = llistxattr(path.c_str(), names.data(), names.size());
  if (size < 0) {
    if (errno == EOPNOTSUPP || errno == ENOENT) return "";
    Die("llistxattr", path);
  }
  std::vector<std::string> sorted;
  for (ssize_t at = 0; at < size; at += strlen(names.data() + at) + 1) {
    sorted.push_back(names.data() + at);
  }
  std::sort(sorted.begin(), sorted.end());
  std::string text;
  for (const std::string& name : sorted) {
    std::string value(65536, '\0');
    const ssize_t length = lgetxattr(path.c_str(), name.c_str(), value.data(), value.size());
    if (length < 0) Die("lgetxattr", path);
    value.resize(length);
    text += " " + Escape(name) + "=" + Escape(value);
  }
  return text;
}

// Content hash and the ranges that are data.
std::string Content(const std::string& path, off_t size) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) Die("open", path);
  Hash hash;
  std::string buffer(1 << 20, '\0');
  ssize_t n;
  while ((n = read(fd, buffer.data(), buffer.size())) > 0) hash.Add(buffer.data(), n);
  if (n < 0) Die("read", path);
  char text[64];
  snprintf(text, sizeof(text), "%016" PRIx64, hash.value());
  std::string line = text;
  for (off_t at = 0; at < size;) {
    const off_t begin = lseek(fd, at, SEEK_DATA);
    if (begin < 0) break;  // ENXIO: a hole to the end
    const off_t end = lseek(fd, begin, SEEK_HOLE);
    line += " " + std::to_string(begin) + "-" + std::to_string(end);
    at = end;
  }
  close(fd);
  return line;
}

class Walker {
 public:
  explicit Walker(std::string root) : root_(std::move(root)) {}

  void Walk(const std::string& below) {
    const std::string path = root_ + below;
    struct stat st;
    if (lstat(path.c_str(), &st) != 0) Die("lstat", path);
    Print(path, below.empty() ? "." : below.substr(1), st);
    if (!S_ISDIR(st.st_mode)) return;
    DIR* directory = opendir(path.c_str());
    if (directory == nullptr) Die("opendir", path);
    std::vector<std::string> names;
    while (const dirent* entry = readdir(directory)) {
      const std::string name = entry->d_name;
      if (name != "." && name != "..") names.push_back(name);
    }
    closedir(directory);
    std::sort(names.begin(), names.end());
    for (const std::string& name : names) Walk(below + "/" + name);
  }

 private:
  void Print(const std::string& path, const std::string& shown, const struct stat& st) {
    printf("%s %06o %u %u %lld.%09ld", Escape(shown).c_str(), st.st_mode, st.st_uid, st.st_gid,
           static_cast<long long>(st.st_mtim.tv_sec), st.st_mtim.tv_nsec);
    if (S_ISREG(st.st_mode)) {
      printf(" %lld %s", static_cast<long long>(st.st_size), Content(path, st.st_size).c_str());
    } else if (S_ISLNK(st.st_mode)) {
      std::string target(4096, '\0');
      const ssize_t length = readlink(path.c_str(), target.data(), target.size());
      if (length < 0) Die("readlink", path);
      target.resize(length);
      printf(" -> %s", Escape(target).c_str());
    } else if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) {
      printf(" device %llx", static_cast<unsigned long long>(st.st_rdev));
    }
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1) {
      const auto [first, fresh] = groups_.emplace(st.st_ino, shown);
      printf(" %u names, first %s", static_cast<unsigned>(st.st_nlink),
             Escape(first->second).c_str());
    }
    printf("%s\n", Xattrs(path).c_str());
  }

  const std::string root_;
  std::map<ino_t, std::string> groups_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tree_listing DIR\n";
    return 2;
  }
  const int fd = open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) Die("open", argv[1]);
  syncfs(fd);  // delayed allocation is over: holes are what they will be
  close(fd);
  Walker(argv[1]).Walk("");
  return fflush(stdout) == 0 ? 0 : 1;
}
