#include "services/sidecar/reconcile/reset.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/record/codec.h"
#include "services/common/status/errno.h"
#include "services/sidecar/reconcile/replayer.h"
#include "services/sidecar/replica/links.h"

namespace intermezzo::sidecar {
namespace {

using record::v1::ASPECT_ATTRIBUTES;
using record::v1::ASPECT_DATA;
using record::v1::OBJECT_KIND_DIRECTORY;
using record::v1::OBJECT_KIND_FILE;
using record::v1::OBJECT_KIND_SYMLINK;

// In the root of the lower tree while a reset runs; no row names it, so no reader sees it.
constexpr char kStaging[] = ".intermezzo-reset";
constexpr size_t kFetchObjects = 500;
// Not to be done twice on the same content.
constexpr uint32_t kShifts = FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE;

absl::Status Failed(const std::string& what) {
  return StatusFromErrno(errno, absl::StrCat("reset: ", what));
}

std::string ProcPath(int fd) { return absl::StrCat("/proc/self/fd/", fd); }

mode_t TypeOf(record::v1::ObjectKind kind) {
  switch (kind) {
    case record::v1::OBJECT_KIND_FIFO:
      return S_IFIFO;
    case record::v1::OBJECT_KIND_SOCKET:
      return S_IFSOCK;
    case record::v1::OBJECT_KIND_CHARACTER_DEVICE:
      return S_IFCHR;
    case record::v1::OBJECT_KIND_BLOCK_DEVICE:
      return S_IFBLK;
    default:
      return S_IFREG;
  }
}

}  // namespace

absl::Status Reset::Run(Seq at_least, Presto* presto) {
  presto_ = presto;
  absl::Status status = FetchOwn();
  if (status.ok()) status = FetchTable(std::max(at_least, own_.last_seq));
  if (status.ok()) status = ReadQueue();
  if (status.ok()) status = KeepLocalVersions();
  if (status.ok()) {
    if (mkdirat(replica_.lower().root_fd(), kStaging, 0700) != 0 && errno != EEXIST) {
      return Failed(kStaging);
    }
    staging_ = UniqueFd(openat(replica_.lower().root_fd(), kStaging,
                               O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!staging_) return Failed(kStaging);
    status = Evacuate();
  }
  if (status.ok()) status = Place();
  if (status.ok()) status = FetchContents();
  if (status.ok()) status = RemoveStaging();
  if (status.ok()) status = SetTimes();
  if (status.ok()) status = Commit();
  return status;
}

absl::Status Reset::FetchOwn() {
  absl::StatusOr<OwnRecords> own = server_.Own(replica_.options().ordinal);
  if (!own.ok()) return own.status();
  own_ = *std::move(own);
  absl::MutexLock lock(&replica_.update_lock());
  const storage::v1::ReplicaRow state = replica_.state();
  const uint64_t last = own_.last_origin_seq;
  if (last < state.confirmed_origin_seq()) {
    return absl::FailedPreconditionError(
        absl::StrCat("the journal ends at record ", last, " of this node, and had confirmed ",
                     state.confirmed_origin_seq(), ": it was restored from an old image"));
  }
  if (last == state.confirmed_origin_seq()) return absl::OkStatus();
  const auto local = replica_.db().ReadLocal(last - 1, 1, 1);
  if (last > state.last_origin_seq() || local.empty() || local[0].first != last ||
      Xxh3(local[0].second.record()) != own_.last_xxh3) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the journal has a record ", last, " of this node that its database does not have: the ",
        "database was restored from an old image. Stop the sidecar, remove the file `instance` ",
        "of its data_dir, start it: it joins as a new incarnation"));
  }
  return absl::OkStatus();
}

absl::Status Reset::FetchTable(Seq at_least) {
  auto header = server_.FetchTable([this](const Object& object) {
    for (const auto& link : object.links()) {
      if (!EntryName::Parse(link.name()).ok()) {
        return absl::DataLossError("the table has a name that is not valid");
      }
      wanted_names_[{link.parent(), link.name()}] = object.object();
    }
    by_id_[object.object()] = table_.size();
    table_.push_back(object);
    return absl::OkStatus();
  });
  if (!header.ok()) return header.status();
  header_ = *std::move(header);
  if (header_.seq() < at_least.value()) {
    return absl::UnavailableError(absl::StrCat("the source is at seq ", header_.seq(), " and ",
                                               at_least.value(), " is needed"));
  }
  return absl::OkStatus();
}

absl::Status Reset::ReadQueue() {
  absl::MutexLock lock(&replica_.update_lock());
  const NodeDb& db = replica_.db();
  const uint64_t through = db.State().replay_through();
  auto batch = replica_.mutable_db().NewBatch();
  // Rows of a reset that was begun before say nothing about what was here.
  const bool complete = db.Note(kFormersNote).has_value();
  std::set<uint64_t> noted;
  for (uint64_t after = own_.last_origin_seq;;) {
    const auto entries = db.ReadLocal(after, 100, 4 << 20);
    if (entries.empty() || entries[0].first > through) break;
    for (const auto& [origin_seq, entry] : entries) {
      after = origin_seq;
      if (origin_seq > through) break;
      absl::StatusOr<record::v1::Record> record = OpenRecord(entry);
      if (!record.ok()) return record.status();
      std::vector<uint64_t> mentioned;
      if (record->has_allocate() && (record->allocate().mode() & kShifts) != 0) {
        queue_[record->allocate().object()].shifts = true;
      }
      if (record->has_create()) {
        queue_[record->create().object()].made_here = true;
        mentioned.push_back(record->create().parent());
      }
      if (record->has_link()) mentioned.push_back(record->link().parent());
      if (record->has_rename()) mentioned.push_back(record->rename().to_parent());
      for (const auto& touch : record->touches()) {
        mentioned.push_back(touch.object());
        Base& base = queue_[touch.object()];
        if (touch.aspect() == ASPECT_DATA && !base.data) base.data = touch.against();
        if (touch.aspect() == ASPECT_ATTRIBUTES && !base.attributes) {
          base.attributes = touch.against();
        }
      }
      // The rows of today, with those of all directories above.
      while (!complete && !mentioned.empty()) {
        const uint64_t id = mentioned.back();
        mentioned.pop_back();
        if (!noted.insert(id).second) continue;
        const auto row = db.Object(ObjectId(id));
        if (!row) continue;
        batch->PutNote(FormerNote(id), row->SerializeAsString());
        for (const auto& link : row->links()) mentioned.push_back(link.parent());
      }
    }
  }
  batch->PutNote(kFormersNote, "");
  return replica_.mutable_db().Commit(std::move(batch), /*sync=*/true);
}

absl::Status Reset::KeepLocalVersions() {
  for (const auto& [id, base] : queue_) {
    if (base.made_here || (!base.data && !base.attributes)) continue;
    if (!replica_.db().Note(FormerNote(id))) continue;  // not here when the reset began
    const auto row = replica_.db().Object(ObjectId(id));
    if (!row || row->kind() != OBJECT_KIND_FILE) continue;
    const auto there = by_id_.find(id);
    if (there != by_id_.end()) {
      const Object& object = table_[there->second];
      if ((!base.data || *base.data == object.data_version()) &&
          (!base.attributes || *base.attributes == object.attributes_version())) {
        continue;  // only this node changed it
      }
    }
    absl::StatusOr<UniqueFd> fd = OpenRow(ObjectId(id), O_RDONLY);
    if (!fd.ok()) return fd.status();
    if (absl::Status status = store_.KeepLocalVersion(ObjectId(id), fd->get()); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

// ---- namespace ---------------------------------------------------------------------------------

bool Reset::Wants(uint64_t parent, const std::string& name, uint64_t object) const {
  auto it = wanted_names_.find({parent, name});
  return it != wanted_names_.end() && it->second == object;
}

absl::StatusOr<UniqueFd> Reset::OpenRow(ObjectId object, int flags) const {
  const auto row = replica_.db().Object(object);
  if (!row) return absl::NotFoundError(absl::StrCat("object ", object.value(), " has no row"));
  return replica_.lower().OpenObject({row->handle_type(), row->handle()}, flags);
}

absl::Status Reset::PutRow(ObjectId object, const Row& row) {
  auto batch = replica_.mutable_db().NewBatch();
  batch->PutObject(object, row);
  return replica_.mutable_db().Commit(std::move(batch), /*sync=*/false);
}

void Reset::Stale(uint64_t parent, const std::string& name) {
  if (presto_ == nullptr) return;
  Invalidation what;
  what.entries.push_back({ObjectId(parent), name});
  what.objects.push_back({ObjectId(parent), 0, 0});
  presto_->Invalidate(std::move(what));
}

void Reset::Stale(uint64_t object) {
  if (presto_ == nullptr) return;
  Invalidation what;
  what.objects.push_back({ObjectId(object), 0, -1});
  presto_->Invalidate(std::move(what));
}

// Takes every local name away that the server does not have. An object that the server has, and
// that loses its last name here, waits in the staging directory; a file that it does not have goes.
absl::Status Reset::Evacuate() {
  std::vector<std::pair<ObjectId, Row>> moving;
  absl::Status listed = replica_.db().NewView()->ForEachObject([&](ObjectId id, const Row& row) {
    const bool stays = std::all_of(row.links().begin(), row.links().end(), [&](const auto& link) {
      return Wants(link.parent(), link.name(), id.value());
    });
    if (id != kRootObject && (!stays || row.links().empty())) moving.emplace_back(id, row);
    return true;
  });
  if (!listed.ok()) return listed;
  for (auto& [id, row] : moving) {
    absl::MutexLock lock(&replica_.update_lock());
    const std::string waiting = absl::StrCat(id.value());
    const auto links = row.links();
    for (const auto& link : links) {
      if (Wants(link.parent(), link.name(), id.value())) continue;
      absl::StatusOr<UniqueFd> parent = OpenRow(ObjectId(link.parent()), O_PATH | O_DIRECTORY);
      if (!parent.ok()) return parent.status();
      DropLink(row, ObjectId(link.parent()), link.name());
      const bool last = row.links().empty();
      const int result =
          last ? renameat(parent->get(), link.name().c_str(), staging_.get(), waiting.c_str())
               : unlinkat(parent->get(), link.name().c_str(), 0);
      if (result != 0 && errno != ENOENT) return Failed(absl::StrCat("moving ", link.name()));
      auto batch = replica_.mutable_db().NewBatch();
      batch->RemoveEntry(ObjectId(link.parent()), link.name());
      batch->PutObject(id, row);
      if (absl::Status status = replica_.mutable_db().Commit(std::move(batch), false);
          !status.ok()) {
        return status;
      }
      Stale(link.parent(), link.name());
    }
  }
  // Rows of what the server does not have. Their lower objects go with the staging directory.
  for (auto& [id, row] : moving) {
    if (by_id_.contains(id.value())) continue;
    absl::MutexLock lock(&replica_.update_lock());
    if (presto_ != nullptr) presto_->BeforeRemoval(id);
    auto batch = replica_.mutable_db().NewBatch();
    batch->RemoveObject(id, row);
    if (absl::Status status = replica_.mutable_db().Commit(std::move(batch), false); !status.ok()) {
      return status;
    }
    Stale(id.value());
  }
  return absl::OkStatus();
}

absl::StatusOr<Reset::Row> Reset::MakePlaceholder(const Object& object, int staging) const {
  const std::string name = absl::StrCat(object.object());
  int result = 0;
  switch (object.kind()) {
    case OBJECT_KIND_DIRECTORY:
      result = mkdirat(staging, name.c_str(), 0700);
      break;
    case OBJECT_KIND_SYMLINK:
      result = symlinkat(object.symlink_target().c_str(), staging, name.c_str());
      break;
    default:
      result =
          mknodat(staging, name.c_str(), TypeOf(object.kind()) | 0600, DecodeDevice(object.rdev()));
  }
  if (result != 0 && errno != EEXIST) return Failed("making an object");
  struct stat st;
  if (fstatat(staging, name.c_str(), &st, AT_SYMLINK_NOFOLLOW) != 0) return Failed(name);
  absl::StatusOr<LowerHandle> handle = replica_.lower().HandleAt(staging, name);
  if (!handle.ok()) return handle.status();
  Row row;
  row.set_kind(object.kind());
  row.set_handle_type(handle->type);
  row.set_handle(handle->bytes);
  row.set_inode(st.st_ino);
  return row;
}

absl::Status Reset::SetMeta(int fd, const Object& object, bool with_mtime) const {
  const std::string path = ProcPath(fd);
  const auto& attributes = object.attributes();
  const bool symlink = object.kind() == OBJECT_KIND_SYMLINK;
  if (fchownat(fd, "", attributes.uid(), attributes.gid(), AT_EMPTY_PATH) != 0) {
    return Failed("chown");
  }
  if (!symlink && chmod(path.c_str(), attributes.mode()) != 0) return Failed("chmod");
  absl::StatusOr<std::vector<record::v1::Xattr>> present = ReadXattrs(fd);
  if (!present.ok()) return present.status();
  for (const auto& xattr : *present) {
    const bool wanted =
        std::any_of(object.xattrs().begin(), object.xattrs().end(),
                    [&](const auto& other) { return other.name() == xattr.name(); });
    if (!wanted) removexattr(path.c_str(), xattr.name().c_str());
  }
  for (const auto& xattr : object.xattrs()) {
    if (setxattr(path.c_str(), xattr.name().c_str(), xattr.value().data(), xattr.value().size(),
                 0) != 0 &&
        errno != ENOTSUP) {
      return Failed(absl::StrCat("setting ", xattr.name()));
    }
  }
  if (!with_mtime) return absl::OkStatus();
  const struct timespec times[2] = {{0, UTIME_OMIT}, FromProto(attributes.mtime())};
  if (utimensat(fd, "", times, AT_EMPTY_PATH) != 0) return Failed("setting times");
  return absl::OkStatus();
}

absl::Status Reset::Place() {
  for (const Object& object : table_) {
    absl::MutexLock lock(&replica_.update_lock());
    if (absl::Status status = PlaceObject(object); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Reset::PlaceObject(const Object& object) {
  const ObjectId id(object.object());
  std::optional<Row> row = replica_.db().Object(id);
  const bool made = !row.has_value();
  if (made) {
    absl::StatusOr<Row> placeholder = MakePlaceholder(object, staging_.get());
    if (!placeholder.ok()) return placeholder.status();
    row = *std::move(placeholder);
  }
  auto batch = replica_.mutable_db().NewBatch();
  bool changed = made;
  const std::string waiting = absl::StrCat(id.value());
  for (const auto& link : object.links()) {
    const auto entry = replica_.db().Entry(ObjectId(link.parent()), link.name());
    const bool there = entry && entry->object() == id.value();
    if (!there) {
      absl::StatusOr<UniqueFd> parent = OpenRow(ObjectId(link.parent()), O_PATH | O_DIRECTORY);
      if (!parent.ok()) return parent.status();
      int result;
      if (row->links().empty()) {
        result = renameat(staging_.get(), waiting.c_str(), parent->get(), link.name().c_str());
        if (result != 0 && errno == ENOENT) result = 0;  // done before a restart
      } else {
        absl::StatusOr<UniqueFd> fd =
            replica_.lower().OpenObject({row->handle_type(), row->handle()}, O_PATH);
        if (!fd.ok()) return fd.status();
        result = linkat(fd->get(), "", parent->get(), link.name().c_str(), AT_EMPTY_PATH);
        if (result != 0 && errno == EEXIST) result = 0;
      }
      if (result != 0) return Failed(absl::StrCat("placing ", link.name()));
      AddLink(*row, ObjectId(link.parent()), link.name());
      Stale(link.parent(), link.name());
    }
    if (!there || entry->version() != link.version()) {
      storage::v1::EntryRow wanted;
      wanted.set_object(id.value());
      wanted.set_version(link.version());
      batch->PutEntry(ObjectId(link.parent()), link.name(), wanted);
      changed = true;
    }
  }
  const auto queued = queue_.find(id.value());
  const bool ours_only = !made && queued != queue_.end() && queued->second.data &&
                         *queued->second.data == object.data_version() && !queued->second.shifts &&
                         !store_.HasLocalVersion(id);
  if (row->data_version() != object.data_version()) {
    // Where only this node changed it, its bytes stay: the replay writes them again.
    if (object.kind() == OBJECT_KIND_FILE && !ours_only) fetch_.insert(id.value());
    row->set_data_version(object.data_version());
    changed = true;
  }
  if (made || row->attributes_version() != object.attributes_version()) {
    absl::StatusOr<UniqueFd> fd =
        replica_.lower().OpenObject({row->handle_type(), row->handle()}, O_PATH);
    if (!fd.ok()) return fd.status();
    if (absl::Status status = SetMeta(fd->get(), object, true); !status.ok()) return status;
    row->set_attributes_version(object.attributes_version());
    changed = true;
  }
  // A fetched file's data version is put when its bytes are there.
  if (fetch_.contains(id.value())) row->set_data_version(made ? 0 : kInitialVersion.value());
  if (!changed) return absl::OkStatus();
  batch->PutObject(id, *row);
  if (absl::Status status = replica_.mutable_db().Commit(std::move(batch), /*sync=*/false);
      !status.ok()) {
    return status;
  }
  if (made && presto_ != nullptr) presto_->Remade(id);
  Stale(id.value());
  return absl::OkStatus();
}

// ---- content -----------------------------------------------------------------------------------

absl::Status Reset::FetchContents() {
  std::vector<ObjectId> group;
  std::set<uint64_t> emptied;
  std::vector<uint64_t> complete;
  auto open = [&](uint64_t object) -> absl::StatusOr<UniqueFd> {
    if (!fetch_.contains(object)) return absl::DataLossError("the source sent another object");
    absl::StatusOr<UniqueFd> fd = OpenRow(ObjectId(object), O_WRONLY);
    if (fd.ok() && emptied.insert(object).second && ftruncate(fd->get(), 0) != 0) {
      return Failed("emptying a file");
    }
    return fd;
  };
  auto chunk = [&](const forwarder::v1::Chunk& part) -> absl::Status {
    record::v1::Entry entry;
    entry.set_payload(part.data());
    entry.set_codec(part.codec());
    record::v1::Record record;
    *record.mutable_payload() = part.digest();
    absl::StatusOr<std::string> bytes = OpenPayload(entry, record);
    if (!bytes.ok()) return bytes.status();
    absl::StatusOr<UniqueFd> fd = open(part.object());
    if (!fd.ok()) return fd.status();
    for (size_t done = 0; done < bytes->size();) {
      const ssize_t n = pwrite(fd->get(), bytes->data() + done, bytes->size() - done,
                               static_cast<off_t>(part.offset() + done));
      if (n < 0 && errno != EINTR) return Failed("writing fetched bytes");
      if (n > 0) done += static_cast<size_t>(n);
    }
    return absl::OkStatus();
  };
  auto end = [&](const forwarder::v1::ObjectEnd& last) -> absl::Status {
    const uint64_t id = last.object().object();
    const auto there = by_id_.find(id);
    if (there == by_id_.end()) return absl::DataLossError("the source sent another object");
    absl::StatusOr<UniqueFd> fd = open(id);
    if (!fd.ok()) return fd.status();
    if (!last.gone()) {  // else the tail removes it
      if (ftruncate(fd->get(), static_cast<off_t>(last.object().size())) != 0) {
        return Failed("sizing a file");
      }
      if (absl::Status status = SetMeta(fd->get(), last.object(), true); !status.ok()) {
        return status;
      }
    }
    complete.push_back(id);
    return absl::OkStatus();
  };
  for (auto it = fetch_.begin(); it != fetch_.end();) {
    group.push_back(ObjectId(*it++));
    if (group.size() < kFetchObjects && it != fetch_.end()) continue;
    complete.clear();
    if (absl::Status status = server_.FetchObjects(group, chunk, end); !status.ok()) return status;
    if (complete.size() != group.size()) return absl::DataLossError("the source left objects out");
    // A row says that its bytes are on disk.
    if (syncfs(replica_.lower().root_fd()) != 0) return Failed("syncfs");
    for (const uint64_t id : complete) {
      absl::MutexLock lock(&replica_.update_lock());
      std::optional<Row> row = replica_.db().Object(ObjectId(id));
      row->set_data_version(table_[by_id_[id]].data_version());
      if (absl::Status status = PutRow(ObjectId(id), *row); !status.ok()) return status;
      Stale(id);
    }
    group.clear();
  }
  return absl::OkStatus();
}

absl::Status Reset::SetTimes() {
  for (const Object& object : table_) {
    if (object.kind() != OBJECT_KIND_DIRECTORY) continue;
    absl::StatusOr<UniqueFd> fd = OpenRow(ObjectId(object.object()), O_PATH);
    if (!fd.ok()) return fd.status();
    struct stat st;
    if (fstat(fd->get(), &st) != 0) return Failed("fstat");
    const struct timespec want = FromProto(object.attributes().mtime());
    if (st.st_mtim.tv_sec == want.tv_sec && st.st_mtim.tv_nsec == want.tv_nsec) continue;
    const struct timespec times[2] = {{0, UTIME_OMIT}, want};
    if (utimensat(fd->get(), "", times, AT_EMPTY_PATH) != 0) return Failed("setting times");
    absl::MutexLock lock(&replica_.update_lock());
    Stale(object.object());
  }
  return absl::OkStatus();
}

// What is left there is known to nobody any more: its content is in the queue.
absl::Status Reset::RemoveStaging() {
  const int copy = openat(staging_.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  DIR* listing = copy < 0 ? nullptr : fdopendir(copy);
  if (listing == nullptr) return Failed(kStaging);
  std::vector<std::string> names;
  while (const dirent* entry = readdir(listing)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  closedir(listing);
  for (const std::string& name : names) {
    if (unlinkat(staging_.get(), name.c_str(), 0) != 0 &&
        unlinkat(staging_.get(), name.c_str(), AT_REMOVEDIR) != 0) {
      return Failed(absl::StrCat("removing ", kStaging, "/", name));
    }
  }
  if (unlinkat(replica_.lower().root_fd(), kStaging, AT_REMOVEDIR) != 0) return Failed(kStaging);
  return absl::OkStatus();
}

absl::Status Reset::Commit() {
  absl::StatusOr<Seq> head = server_.Head();
  if (!head.ok()) return head.status();
  // What this node sent last may have been under way when it was asked first.
  absl::StatusOr<OwnRecords> own = server_.Own(replica_.options().ordinal);
  if (!own.ok()) return own.status();
  if (own->last_origin_seq != own_.last_origin_seq) {
    return absl::UnavailableError("records of this node have reached the journal meanwhile");
  }
  if (syncfs(replica_.lower().root_fd()) != 0) return Failed("syncfs");
  absl::MutexLock lock(&replica_.update_lock());
  storage::v1::ReplicaRow state = replica_.state();
  state.set_cursor(header_.seq());
  state.set_chain(header_.chain());
  state.set_redo_until_seq(fetch_.empty() || head->value() <= header_.seq() ? 0 : head->value());
  state.set_reset_done(true);
  auto batch = replica_.mutable_db().NewBatch();
  if (own_.last_origin_seq > state.confirmed_origin_seq()) {
    batch->DropLocalThrough(own_.last_origin_seq);
    state.set_confirmed_origin_seq(own_.last_origin_seq);
  }
  batch->PutState(state);
  if (absl::Status status = replica_.mutable_db().Commit(std::move(batch), true); !status.ok()) {
    return status;
  }
  return replica_.ReloadState();
}

}  // namespace intermezzo::sidecar
