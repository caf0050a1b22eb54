// passthrough LOWER MOUNT_POINT [--answer-opens]: a plain libfuse file system over a directory, the
// baseline of the benchmarks. Names, attributes and pages are cached as long as those of our
// driver; the kernel skips opens unless told otherwise; nothing is journaled. Runs until it is
// unmounted. One O_PATH descriptor for each object that the kernel knows. Creates as root only:
// enough for benchmarks that run as root.
#define FUSE_USE_VERSION 314

#include <dirent.h>
#include <fcntl.h>
#include <fuse3/fuse_lowlevel.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

namespace {

constexpr double kCacheSeconds = 3600;

struct DataFile {
  explicit DataFile(int descriptor) : fd(descriptor) {}
  ~DataFile() {
    if (fd >= 0) close(fd);
  }
  const int fd;
};

struct Node {
  int fd = -1;
  ino_t ino = 0;
  uint64_t lookups = 1;
  // Where opens are skipped: opened at the first read or write.
  std::shared_ptr<DataFile> data;
};

bool answer_opens = false;
Node root;
std::mutex mu;
std::unordered_map<ino_t, Node*> nodes;
// Nodes whose data file is open, oldest first; at most kMaxDataFiles.
constexpr size_t kMaxDataFiles = 1000;
std::deque<ino_t> open_data;

Node& At(fuse_ino_t ino) {
  return ino == FUSE_ROOT_ID ? root : *reinterpret_cast<Node*>(static_cast<uintptr_t>(ino));
}
std::string Proc(fuse_ino_t ino) { return "/proc/self/fd/" + std::to_string(At(ino).fd); }
void Reply(fuse_req_t req, int result) { fuse_reply_err(req, result < 0 ? errno : 0); }

// 0 or errno.
int Find(fuse_ino_t parent, const char* name, fuse_entry_param& entry) {
  entry = {};
  entry.attr_timeout = kCacheSeconds;
  entry.entry_timeout = kCacheSeconds;
  const int fd = openat(At(parent).fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
  if (fd < 0) return errno;
  if (fstat(fd, &entry.attr) != 0) {
    const int error = errno;
    close(fd);
    return error;
  }
  std::lock_guard lock(mu);
  Node*& node = nodes[entry.attr.st_ino];
  if (node == nullptr) {
    node = new Node{fd, entry.attr.st_ino, 0, nullptr};
  } else {
    close(fd);
  }
  ++node->lookups;
  entry.ino = reinterpret_cast<uintptr_t>(node);
  return 0;
}

void ReplyFound(fuse_req_t req, fuse_ino_t parent, const char* name) {
  fuse_entry_param entry;
  const int error = Find(parent, name, entry);
  if (error == 0 || error == ENOENT) {
    fuse_reply_entry(req, &entry);
  } else {
    fuse_reply_err(req, error);
  }
}

void ReplyMade(fuse_req_t req, int result, fuse_ino_t parent, const char* name) {
  if (result < 0) {
    fuse_reply_err(req, errno);
  } else {
    ReplyFound(req, parent, name);
  }
}

// With mu held.
void KeepData(Node& node, int fd) {
  node.data = std::make_shared<DataFile>(fd);
  open_data.push_back(node.ino);
  if (open_data.size() <= kMaxDataFiles) return;
  if (auto it = nodes.find(open_data.front()); it != nodes.end()) it->second->data.reset();
  open_data.pop_front();
}

// The file to read and write with.
std::shared_ptr<DataFile> Data(fuse_ino_t ino) {
  std::lock_guard lock(mu);
  Node& node = At(ino);
  if (node.data == nullptr) {
    const std::string path = "/proc/self/fd/" + std::to_string(node.fd);
    int fd = open(path.c_str(), O_RDWR | O_CLOEXEC);
    if (fd < 0) fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    KeepData(node, fd);
  }
  return node.data;
}

// Calls `use` with the descriptor to read and write with.
template <typename Use>
ssize_t WithData(fuse_ino_t ino, const fuse_file_info* fi, Use use) {
  if (answer_opens) return use(static_cast<int>(fi->fh));
  return use(Data(ino)->fd);
}

void Init(void*, fuse_conn_info* conn) {
  conn->want &= ~(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
                  FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE);
  conn->want |= FUSE_CAP_EXPLICIT_INVAL_DATA & conn->capable;
  conn->max_write = 1 << 20;
}

void Forget(fuse_req_t req, fuse_ino_t ino, uint64_t count) {
  if (ino != FUSE_ROOT_ID) {
    std::lock_guard lock(mu);
    Node& node = At(ino);
    node.lookups -= count;
    if (node.lookups == 0) {
      nodes.erase(node.ino);
      close(node.fd);
      delete &node;
    }
  }
  fuse_reply_none(req);
}

void Getattr(fuse_req_t req, fuse_ino_t ino, fuse_file_info*) {
  struct stat st;
  if (fstat(At(ino).fd, &st) != 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_attr(req, &st, kCacheSeconds);
  }
}

void Setattr(fuse_req_t req, fuse_ino_t ino, struct stat* attr, int set, fuse_file_info*) {
  const int fd = At(ino).fd;
  int result = 0;
  if (set & FUSE_SET_ATTR_SIZE) result = truncate(Proc(ino).c_str(), attr->st_size);
  if (result == 0 && (set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))) {
    result = fchownat(fd, "", set & FUSE_SET_ATTR_UID ? attr->st_uid : -1,
                      set & FUSE_SET_ATTR_GID ? attr->st_gid : -1, AT_EMPTY_PATH);
  }
  if (result == 0 && (set & FUSE_SET_ATTR_MODE)) {
    result = chmod(Proc(ino).c_str(), attr->st_mode & 07777);
  }
  if (result == 0 && (set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME))) {
    timespec times[2] = {attr->st_atim, attr->st_mtim};
    if (!(set & FUSE_SET_ATTR_ATIME)) times[0].tv_nsec = UTIME_OMIT;
    if (!(set & FUSE_SET_ATTR_MTIME)) times[1].tv_nsec = UTIME_OMIT;
    if (set & FUSE_SET_ATTR_ATIME_NOW) times[0].tv_nsec = UTIME_NOW;
    if (set & FUSE_SET_ATTR_MTIME_NOW) times[1].tv_nsec = UTIME_NOW;
    result = utimensat(fd, "", times, AT_EMPTY_PATH);
  }
  if (result != 0) {
    fuse_reply_err(req, errno);
  } else {
    Getattr(req, ino, nullptr);
  }
}

void Readlink(fuse_req_t req, fuse_ino_t ino) {
  char target[4097];
  const ssize_t n = readlinkat(At(ino).fd, "", target, sizeof(target) - 1);
  if (n < 0) {
    fuse_reply_err(req, errno);
    return;
  }
  target[n] = 0;
  fuse_reply_readlink(req, target);
}

void Create(fuse_req_t req, fuse_ino_t parent, const char* name, mode_t mode, fuse_file_info* fi) {
  const int fd = openat(At(parent).fd, name,
                        (fi->flags & ~(O_APPEND | O_WRONLY)) | O_RDWR | O_CREAT | O_CLOEXEC, mode);
  fuse_entry_param entry;
  if (fd < 0) {
    fuse_reply_err(req, errno);
  } else if (int error = Find(parent, name, entry)) {
    close(fd);
    fuse_reply_err(req, error);
  } else {
    if (answer_opens) {
      fi->fh = fd;
    } else {
      std::lock_guard lock(mu);
      KeepData(At(entry.ino), fd);
    }
    fi->keep_cache = 1;
    fuse_reply_create(req, &entry, fi);
  }
}

void Open(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (!answer_opens) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  const int fd = open(Proc(ino).c_str(), (fi->flags & ~(O_NOFOLLOW | O_APPEND)) | O_CLOEXEC);
  if (fd < 0) {
    fuse_reply_err(req, errno);
    return;
  }
  fi->fh = fd;
  fi->keep_cache = 1;
  fuse_reply_open(req, fi);
}

void Release(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  if (answer_opens) close(static_cast<int>(fi->fh));
  fuse_reply_err(req, 0);
}

void Read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi) {
  std::string bytes(size, '\0');
  const ssize_t n =
      WithData(ino, fi, [&](int fd) { return pread(fd, bytes.data(), size, offset); });
  if (n < 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_buf(req, bytes.data(), n);
  }
}

void Write(fuse_req_t req, fuse_ino_t ino, const char* data, size_t size, off_t offset,
           fuse_file_info* fi) {
  const ssize_t n = WithData(ino, fi, [&](int fd) { return pwrite(fd, data, size, offset); });
  if (n < 0) {
    fuse_reply_err(req, errno);
  } else {
    fuse_reply_write(req, n);
  }
}

DIR* OpenDirectory(fuse_ino_t ino) {
  const int fd = openat(At(ino).fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  return fd < 0 ? nullptr : fdopendir(fd);
}

void Opendir(fuse_req_t req, fuse_ino_t ino, fuse_file_info* fi) {
  if (!answer_opens) {
    fuse_reply_err(req, ENOSYS);
    return;
  }
  DIR* dir = OpenDirectory(ino);
  if (dir == nullptr) {
    fuse_reply_err(req, errno);
    return;
  }
  fi->fh = reinterpret_cast<uintptr_t>(dir);
  fi->keep_cache = 1;
  fi->cache_readdir = 1;
  fuse_reply_open(req, fi);
}

void Readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, fuse_file_info* fi) {
  DIR* dir =
      answer_opens ? reinterpret_cast<DIR*>(static_cast<uintptr_t>(fi->fh)) : OpenDirectory(ino);
  if (dir == nullptr) {
    fuse_reply_err(req, errno);
    return;
  }
  std::string out(size, '\0');
  size_t used = 0;
  seekdir(dir, offset);
  while (dirent* each = readdir(dir)) {
    struct stat st = {};
    st.st_ino = each->d_ino;
    st.st_mode = static_cast<mode_t>(each->d_type) << 12;
    const size_t need =
        fuse_add_direntry(req, out.data() + used, size - used, each->d_name, &st, each->d_off);
    if (need > size - used) break;
    used += need;
  }
  if (!answer_opens) closedir(dir);
  fuse_reply_buf(req, out.data(), used);
}

void Releasedir(fuse_req_t req, fuse_ino_t, fuse_file_info* fi) {
  if (answer_opens) closedir(reinterpret_cast<DIR*>(static_cast<uintptr_t>(fi->fh)));
  fuse_reply_err(req, 0);
}

void Getxattr(fuse_req_t req, fuse_ino_t ino, const char* name, size_t size) {
  std::string value(size, '\0');
  const ssize_t n = getxattr(Proc(ino).c_str(), name, value.data(), size);
  if (n < 0) {
    fuse_reply_err(req, errno);
  } else if (size == 0) {
    fuse_reply_xattr(req, n);
  } else {
    fuse_reply_buf(req, value.data(), n);
  }
}

fuse_lowlevel_ops Operations() {
  fuse_lowlevel_ops o = {};
  using Req = fuse_req_t;
  using Ino = fuse_ino_t;
  using Name = const char*;
  o.init = Init;
  o.lookup = ReplyFound;
  o.forget = Forget;
  o.getattr = Getattr;
  o.setattr = Setattr;
  o.readlink = Readlink;
  o.create = Create;
  o.open = Open;
  o.release = Release;
  o.read = Read;
  o.write = Write;
  o.opendir = Opendir;
  o.readdir = Readdir;
  o.releasedir = Releasedir;
  o.getxattr = Getxattr;
  o.flush = [](Req r, Ino, fuse_file_info*) { fuse_reply_err(r, answer_opens ? 0 : ENOSYS); };
  o.fsync = [](Req r, Ino i, int, fuse_file_info* fi) {
    Reply(r, static_cast<int>(WithData(i, fi, [](int fd) { return fsync(fd); })));
  };
  o.mknod = [](Req r, Ino p, Name n, mode_t m, dev_t d) {
    ReplyMade(r, mknodat(At(p).fd, n, m, d), p, n);
  };
  o.mkdir = [](Req r, Ino p, Name n, mode_t m) { ReplyMade(r, mkdirat(At(p).fd, n, m), p, n); };
  o.symlink = [](Req r, Name t, Ino p, Name n) { ReplyMade(r, symlinkat(t, At(p).fd, n), p, n); };
  o.link = [](Req r, Ino i, Ino p, Name n) {
    ReplyMade(r, linkat(At(i).fd, "", At(p).fd, n, AT_EMPTY_PATH), p, n);
  };
  o.unlink = [](Req r, Ino p, Name n) { Reply(r, unlinkat(At(p).fd, n, 0)); };
  o.rmdir = [](Req r, Ino p, Name n) { Reply(r, unlinkat(At(p).fd, n, AT_REMOVEDIR)); };
  o.rename = [](Req r, Ino p, Name n, Ino np, Name nn, unsigned f) {
    Reply(r, renameat2(At(p).fd, n, At(np).fd, nn, f));
  };
  o.statfs = [](Req r, Ino i) {
    struct statvfs st;
    if (fstatvfs(At(i).fd, &st) != 0) {
      fuse_reply_err(r, errno);
    } else {
      fuse_reply_statfs(r, &st);
    }
  };
  return o;
}

}  // namespace

int main(int argc, char** argv) {
  answer_opens = argc == 4 && strcmp(argv[3], "--answer-opens") == 0;
  if (argc != 3 && !answer_opens) {
    fprintf(stderr, "usage: %s LOWER MOUNT_POINT [--answer-opens]\n", argv[0]);
    return 2;
  }
  umask(0);
  rlimit files;
  if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
  }
  root.fd = open(argv[1], O_PATH | O_DIRECTORY | O_CLOEXEC);
  if (root.fd < 0) {
    perror(argv[1]);
    return 1;
  }
  const char* arguments[] = {argv[0], "-o", "default_permissions,allow_other,fsname=passthrough"};
  fuse_args args = FUSE_ARGS_INIT(3, const_cast<char**>(arguments));
  const fuse_lowlevel_ops operations = Operations();
  fuse_session* session = fuse_session_new(&args, &operations, sizeof(operations), nullptr);
  if (session == nullptr || fuse_session_mount(session, argv[2]) != 0) return 1;
  fuse_loop_config* config = fuse_loop_cfg_create();
  fuse_loop_cfg_set_max_threads(config, 2);
  const int result = fuse_session_loop_mt(session, config);
  fuse_loop_cfg_destroy(config);
  fuse_session_unmount(session);
  fuse_session_destroy(session);
  return result == 0 ? 0 : 1;
}
