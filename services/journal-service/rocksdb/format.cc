#include "services/journal-service/rocksdb/format.h"

#include "absl/strings/str_cat.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "intermezzo/storage/v1/journal_db.pb.h"
#include "services/common/types/view.h"

namespace intermezzo::journal::format {
namespace {

constexpr size_t kHashBytes = 16;

template <typename Int>
void Put(std::string& out, Int value) {
  for (int shift = 8 * (sizeof(Int) - 1); shift >= 0; shift -= 8) {
    out.push_back(static_cast<char>(value >> shift));
  }
}

// Reads big-endian numbers; `good` stays false once the bytes ran out.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  template <typename Int>
  Int Get() {
    Int value = 0;
    if (bytes_.size() < sizeof(Int)) {
      good_ = false;
      return value;
    }
    for (size_t i = 0; i < sizeof(Int); ++i) {
      value = static_cast<Int>(value << 8) | static_cast<uint8_t>(bytes_[i]);
    }
    bytes_.remove_prefix(sizeof(Int));
    return value;
  }
  std::string Bytes(size_t count) {
    if (bytes_.size() < count) {
      good_ = false;
      return {};
    }
    std::string out(bytes_.substr(0, count));
    bytes_.remove_prefix(count);
    return out;
  }
  // Everything was there and nothing is left.
  bool Done() const { return good_ && bytes_.empty(); }

 private:
  std::string_view bytes_;
  bool good_ = true;
};

absl::Status Broken(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("journal database: a broken ", what));
}

// Serialized without regard to the order of hashing: the same bytes for the same message.
std::string Serialize(const google::protobuf::Message& message) {
  std::string out;
  google::protobuf::io::StringOutputStream stream(&out);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return out;
}

}  // namespace

std::string FormatKey() { return "f"; }

std::string FormatValue() {
  std::string out;
  Put<uint32_t>(out, kVersion);
  return out;
}

absl::Status CheckFormatValue(std::string_view value) {
  Reader reader(value);
  const uint32_t version = reader.Get<uint32_t>();
  if (!reader.Done()) return Broken("format row");
  if (version == kVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the journal database has format ", version, ", this program knows ", kVersion));
}

std::string JournalKey(uint64_t uid) {
  std::string out(1, kJournalPrefix);
  Put(out, uid);
  return out;
}

std::string CursorsKey(uint64_t uid) {
  std::string out("c");
  Put(out, uid);
  return out;
}

std::string EncodeJournal(const JournalRow& row) {
  storage::v1::JournalRow message;
  message.set_name(row.name);
  message.set_uid(row.state.uid);
  message.set_head_seq(row.state.head.value());
  message.set_first_seq(row.state.first.value());
  message.set_epoch(row.state.epoch.value());
  message.set_head_bytes(row.state.head_bytes);
  message.set_trimmed_bytes(row.state.trimmed_bytes);
  message.set_head_chain(row.state.head_chain);
  message.set_base_chain(row.state.base_chain);
  message.set_committed_ns(row.state.committed_ns);
  message.set_retention_ns(absl::ToInt64Nanoseconds(row.state.retention));
  return Serialize(message);
}

absl::StatusOr<JournalRow> DecodeJournal(std::string_view value) {
  storage::v1::JournalRow message;
  if (!message.ParseFromArray(value.data(), static_cast<int>(value.size())) ||
      message.name().empty()) {
    return Broken("journal row");
  }
  JournalRow row;
  row.name = message.name();
  row.state.uid = message.uid();
  row.state.head = Seq(message.head_seq());
  row.state.first = Seq(message.first_seq());
  row.state.epoch = Epoch(message.epoch());
  row.state.head_bytes = message.head_bytes();
  row.state.trimmed_bytes = message.trimmed_bytes();
  row.state.head_chain = message.head_chain();
  row.state.base_chain = message.base_chain();
  row.state.committed_ns = message.committed_ns();
  row.state.retention = absl::Nanoseconds(message.retention_ns());
  return row;
}

std::string EncodeCursors(const std::vector<Cursor>& cursors) {
  storage::v1::JournalCursorsRow message;
  for (const Cursor& cursor : cursors) {
    auto* out = message.add_cursors();
    out->set_node(cursor.node);
    out->set_seq(cursor.seq.value());
  }
  return Serialize(message);
}

absl::StatusOr<std::vector<Cursor>> DecodeCursors(std::string_view value) {
  storage::v1::JournalCursorsRow message;
  if (!message.ParseFromArray(value.data(), static_cast<int>(value.size()))) {
    return Broken("cursors row");
  }
  std::vector<Cursor> cursors;
  for (const auto& cursor : message.cursors())
    cursors.push_back({cursor.node(), Seq(cursor.seq())});
  return cursors;
}

std::string EntryKey(uint64_t uid, Seq seq) {
  std::string out;
  Put(out, uid);
  Put(out, seq.value());
  return out;
}

absl::StatusOr<Seq> SeqOfEntryKey(std::string_view key) {
  Reader reader(key);
  reader.Get<uint64_t>();
  Seq seq(reader.Get<uint64_t>());
  if (!reader.Done()) return Broken("entry key");
  return seq;
}

std::string ObjectKey(uint64_t uid, uint64_t object) {
  std::string out;
  Put(out, uid);
  out.push_back('o');
  Put(out, object);
  return out;
}

std::string NameKey(uint64_t uid, uint64_t directory, std::string_view name) {
  std::string out;
  out.reserve(17 + name.size());
  Put(out, uid);
  out.push_back('e');
  Put(out, directory);
  out.append(name);
  return out;
}

std::string EncodeObject(const ObjectState& state) {
  std::string out;
  Put<uint8_t>(out, state.kind);
  Put(out, state.data.value());
  Put(out, state.attributes.value());
  Put(out, state.parent.value());
  Put(out, state.links);
  Put(out, state.children);
  return out;
}

absl::StatusOr<ObjectState> DecodeObject(std::string_view value) {
  Reader reader(value);
  ObjectState state;
  const int kind = reader.Get<uint8_t>();
  state.kind = static_cast<record::v1::ObjectKind>(kind);
  state.data = Version(reader.Get<uint64_t>());
  state.attributes = Version(reader.Get<uint64_t>());
  state.parent = ObjectId(reader.Get<uint64_t>());
  state.links = reader.Get<uint32_t>();
  state.children = reader.Get<uint32_t>();
  if (!reader.Done() || !record::v1::ObjectKind_IsValid(kind) || !state.exists()) {
    return Broken("object row");
  }
  return state;
}

std::string EncodeEntry(const EntryState& state) {
  std::string out;
  Put(out, state.version.value());
  Put(out, state.object.value());
  return out;
}

absl::StatusOr<EntryState> DecodeEntry(std::string_view value) {
  Reader reader(value);
  EntryState state;
  state.version = Version(reader.Get<uint64_t>());
  state.object = ObjectId(reader.Get<uint64_t>());
  if (!reader.Done() || !state.exists()) return Broken("directory entry row");
  return state;
}

std::string OriginKey(uint64_t uid, uint64_t ordinal) {
  std::string out;
  Put(out, uid);
  Put(out, static_cast<uint32_t>(ordinal));
  return out;
}

std::string EncodeOrigin(const OriginState& state) {
  std::string out;
  Put(out, state.last_origin_seq);
  Put(out, state.last_seq.value());
  out.append(state.last_hash);
  return out;
}

absl::StatusOr<OriginState> DecodeOrigin(std::string_view value) {
  Reader reader(value);
  OriginState state;
  state.last_origin_seq = reader.Get<uint64_t>();
  state.last_seq = Seq(reader.Get<uint64_t>());
  state.last_hash = reader.Bytes(kHashBytes);
  if (!reader.Done()) return Broken("origin row");
  return state;
}

std::string UidBegin(uint64_t uid) {
  std::string out;
  Put(out, uid);
  return out;
}

std::string UidEnd(uint64_t uid) { return UidBegin(uid).append(9, '\xff'); }

}  // namespace intermezzo::journal::format
