#include "services/sidecar/session/instance.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/json_util.h"
#include "services/common/status/errno.h"
#include "services/common/types/view.h"
#include "services/sidecar/lower/lower_tree.h"

namespace intermezzo::sidecar {
namespace {

absl::Status Errno(const std::string& what, const std::string& path) {
  return StatusFromErrno(errno, absl::StrCat(what, " ", path));
}

// nullopt where there is no such file.
absl::StatusOr<std::optional<std::string>> ReadFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) {
    if (errno == ENOENT) return std::nullopt;
    return Errno("open", path);
  }
  std::string text;
  char buffer[4096];
  for (;;) {
    const ssize_t n = read(fd.get(), buffer, sizeof buffer);
    if (n < 0) return Errno("read", path);
    if (n == 0) return text;
    text.append(buffer, n);
    if (text.size() > (16u << 20)) {
      return absl::DataLossError(absl::StrCat(path, " is larger than 16 MiB"));
    }
  }
}

absl::Status ReplaceFile(const std::string& dir, const std::string& name, const std::string& text) {
  const std::string path = absl::StrCat(dir, "/", name);
  const std::string fresh = absl::StrCat(path, ".new");
  UniqueFd fd(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd) return Errno("create", fresh);
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = write(fd.get(), text.data() + done, text.size() - done);
    if (n < 0) return Errno("write", fresh);
    done += n;
  }
  if (fsync(fd.get()) != 0) return Errno("sync", fresh);
  if (rename(fresh.c_str(), path.c_str()) != 0) return Errno("rename to", path);
  UniqueFd dir_fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!dir_fd || fsync(dir_fd.get()) != 0) return Errno("sync", dir);
  return absl::OkStatus();
}

// RFC 4122, version 4.
std::string NewUuid() {
  unsigned char b[16];
  for (size_t done = 0; done < sizeof b;) {
    const ssize_t n = getrandom(b + done, sizeof b - done, 0);
    if (n > 0) done += n;
  }
  b[6] = (b[6] & 0x0f) | 0x40;
  b[8] = (b[8] & 0x3f) | 0x80;
  std::string text;
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += absl::StrFormat("%02x", b[i]);
  }
  return text;
}

bool IsUuid(const std::string& text) {
  if (text.size() != 36) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool hyphen = i == 8 || i == 13 || i == 18 || i == 23;
    if (hyphen ? text[i] != '-' : !isxdigit(static_cast<unsigned char>(text[i]))) return false;
  }
  return true;
}

}  // namespace

absl::StatusOr<std::string> LoadOrMakeInstance(const std::string& data_dir) {
  auto text = ReadFile(absl::StrCat(data_dir, "/instance"));
  if (!text.ok()) return text.status();
  if (*text) {
    while (!(*text)->empty() && (*text)->back() == '\n') (*text)->pop_back();
    if (!IsUuid(**text)) {
      return absl::DataLossError(absl::StrCat(data_dir, "/instance holds no uuid"));
    }
    return **text;
  }
  std::string uuid = NewUuid();
  if (absl::Status status = ReplaceFile(data_dir, "instance", uuid + "\n"); !status.ok()) {
    return status;
  }
  return uuid;
}

absl::StatusOr<storage::v1::Assignment> LoadAssignment(const std::string& data_dir) {
  auto text = ReadFile(absl::StrCat(data_dir, "/assignment"));
  if (!text.ok()) return text.status();
  storage::v1::Assignment assignment;
  if (!*text) return assignment;
  const auto parsed = google::protobuf::util::JsonStringToMessage(**text, &assignment);
  if (!parsed.ok()) {
    return absl::DataLossError(
        absl::StrCat(data_dir, "/assignment: ", std::string(parsed.message())));
  }
  return assignment;
}

absl::Status SaveAssignment(const std::string& data_dir,
                            const storage::v1::Assignment& assignment) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  std::string text;
  if (!google::protobuf::util::MessageToJsonString(assignment, &text, options).ok()) {
    return absl::InternalError("assignment cannot be written as JSON");
  }
  return ReplaceFile(data_dir, "assignment", text);
}

absl::Status MakeDirectories(const std::string& path, mode_t mode) {
  for (size_t at = 1; at != std::string::npos;) {
    at = path.find('/', at);
    const std::string part = path.substr(0, at);
    if (mkdir(part.c_str(), mode) != 0 && errno != EEXIST) return Errno("mkdir", part);
    if (at != std::string::npos) ++at;
  }
  struct stat st;
  if (stat(path.c_str(), &st) != 0) return Errno("stat", path);
  if (!S_ISDIR(st.st_mode)) return StatusFromErrno(ENOTDIR, path);
  return absl::OkStatus();
}

}  // namespace intermezzo::sidecar
