#include "services/common/record/codec.h"

#include <xxhash.h>
#include <zstd.h>

#include <memory>

#include "absl/strings/str_cat.h"

namespace intermezzo {
namespace {

using record::v1::Record;
using record::v1::Touch;

constexpr int kZstdLevel = 1;
// A zstd frame around less than this saves nothing worth its time.
constexpr size_t kMinCompressBytes = 128;

std::string Canonical(XXH128_hash_t hash) {
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, hash);
  return std::string(reinterpret_cast<const char*>(canonical.digest), sizeof(canonical.digest));
}

// Contexts are costly to make and cheap to keep: one a thread.
struct FreeHash {
  void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
};

struct FreeZstd {
  void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  void operator()(ZSTD_DCtx* context) const { ZSTD_freeDCtx(context); }
};

ZSTD_CCtx* CompressContext() {
  thread_local const std::unique_ptr<ZSTD_CCtx, FreeZstd> context(ZSTD_createCCtx());
  return context.get();
}

ZSTD_DCtx* DecompressContext() {
  thread_local const std::unique_ptr<ZSTD_DCtx, FreeZstd> context(ZSTD_createDCtx());
  return context.get();
}

// Sets `out` to one zstd frame and returns true where that saves at least an eighth.
bool Compress(std::string_view payload, std::string* out) {
  if (payload.size() < kMinCompressBytes) return false;
  // A destination of seven eighths: zstd gives up where it does not fit.
  out->resize(payload.size() - payload.size() / 8);
  const size_t size = ZSTD_compressCCtx(CompressContext(), out->data(), out->size(), payload.data(),
                                        payload.size(), kZstdLevel);
  if (ZSTD_isError(size)) return false;
  out->resize(size);
  return true;
}

// Collects touches in the order of the table in services/README.md.
class Touches {
 public:
  void Entry(uint64_t directory, const std::string& name) {
    Touch& touch = Add(directory, record::v1::ASPECT_ENTRY);
    touch.set_name(name);
  }
  void Data(uint64_t object) { Add(object, record::v1::ASPECT_DATA); }
  void Attributes(uint64_t object) { Add(object, record::v1::ASPECT_ATTRIBUTES); }
  void DataAndAttributes(uint64_t object) {
    Data(object);
    Attributes(object);
  }
  std::vector<Touch> Take() { return std::move(touches_); }

 private:
  Touch& Add(uint64_t object, record::v1::Aspect aspect) {
    Touch& touch = touches_.emplace_back();
    touch.set_object(object);
    touch.set_aspect(aspect);
    return touch;
  }
  std::vector<Touch> touches_;
};

}  // namespace

std::string Xxh3(std::string_view bytes) {
  return Canonical(XXH3_128bits(bytes.data(), bytes.size()));
}

SealedPayload SealPayload(std::string_view payload) {
  SealedPayload sealed;
  if (payload.empty()) return sealed;
  sealed.digest.set_length(payload.size());
  sealed.digest.set_xxh3(Xxh3(payload));
  if (Compress(payload, &sealed.bytes)) {
    sealed.codec = record::v1::PAYLOAD_CODEC_ZSTD;
  } else {
    sealed.bytes.assign(payload);
  }
  return sealed;
}

record::v1::Entry SealEntry(Record& record, SealedPayload payload) {
  record::v1::Entry entry;
  if (payload.bytes.empty()) {
    record.clear_payload();
  } else {
    *record.mutable_payload() = std::move(payload.digest);
    entry.set_codec(payload.codec);
    entry.set_payload_length(payload.bytes.size());
    entry.set_payload(std::move(payload.bytes));
  }
  record.SerializeToString(entry.mutable_record());
  return entry;
}

record::v1::Entry SealEntry(Record record, std::string_view payload) {
  return SealEntry(record, SealPayload(payload));
}

absl::StatusOr<std::string> OpenPayload(const record::v1::Entry& entry, const Record& record) {
  const std::string& encoded = entry.payload();
  if (!record.has_payload()) {
    if (encoded.empty()) return std::string();
    return absl::DataLossError(
        absl::StrCat("payload of ", encoded.size(), " bytes beside a record that has none"));
  }
  const uint64_t length = record.payload().length();
  if (length == 0 || length > kMaxPayloadBytes) {
    return absl::DataLossError(
        absl::StrCat("payload.length is ", length, ": 1 to ", kMaxPayloadBytes, " are allowed"));
  }
  if (encoded.empty()) return absl::DataLossError("payload is missing");

  std::string payload;
  switch (entry.codec()) {
    case record::v1::PAYLOAD_CODEC_UNSPECIFIED:
      if (encoded.size() != length) {
        return absl::DataLossError(
            absl::StrCat("payload has ", encoded.size(), " bytes, payload.length says ", length));
      }
      payload = encoded;
      break;
    case record::v1::PAYLOAD_CODEC_ZSTD: {
      // The destination has the length that the record claims (checked above), whatever the frame
      // claims of itself: a frame of any other length fails.
      payload.resize(length);
      const size_t size = ZSTD_decompressDCtx(DecompressContext(), payload.data(), payload.size(),
                                              encoded.data(), encoded.size());
      if (ZSTD_isError(size)) {
        return absl::DataLossError(absl::StrCat("payload is not a zstd frame of ", length,
                                                " bytes: ", ZSTD_getErrorName(size)));
      }
      if (size != length) {
        return absl::DataLossError(
            absl::StrCat("payload has ", size, " bytes, payload.length says ", length));
      }
      break;
    }
    default:
      return absl::DataLossError(absl::StrCat("codec ", entry.codec(), " is not known"));
  }
  if (Xxh3(payload) != record.payload().xxh3()) {
    return absl::DataLossError("payload does not match its digest");
  }
  return payload;
}

std::string ChainHash(std::string_view previous_chain, Seq seq, std::string_view record) {
  char seq_bytes[sizeof(uint64_t)];
  for (size_t i = 0; i < sizeof(seq_bytes); ++i) {
    seq_bytes[i] = static_cast<char>(seq.value() >> (8 * (sizeof(seq_bytes) - 1 - i)));
  }
  thread_local const std::unique_ptr<XXH3_state_t, FreeHash> owned_state(XXH3_createState());
  XXH3_state_t* const state = owned_state.get();
  XXH3_128bits_reset(state);
  XXH3_128bits_update(state, previous_chain.data(), previous_chain.size());
  XXH3_128bits_update(state, seq_bytes, sizeof(seq_bytes));
  XXH3_128bits_update(state, record.data(), record.size());
  return Canonical(XXH3_128bits_digest(state));
}

std::vector<Touch> RequiredTouches(const Record& record) {
  Touches touches;
  switch (record.op_case()) {
    case Record::kCreate:
      touches.Entry(record.create().parent(), record.create().name());
      touches.DataAndAttributes(record.create().object());
      break;
    case Record::kLink:
      touches.Entry(record.link().parent(), record.link().name());
      touches.Attributes(record.link().object());
      break;
    case Record::kRemove:
      touches.Entry(record.remove().parent(), record.remove().name());
      if (record.remove().last()) touches.DataAndAttributes(record.remove().object());
      break;
    case Record::kRename: {
      const record::v1::RenameOp& op = record.rename();
      touches.Entry(op.from_parent(), op.from_name());
      touches.Entry(op.to_parent(), op.to_name());
      if (op.replaced() != 0 && op.replaced_last()) touches.DataAndAttributes(op.replaced());
      if (op.whiteout() != 0) touches.DataAndAttributes(op.whiteout());
      break;
    }
    case Record::kWrite:
      touches.Data(record.write().object());
      break;
    case Record::kTruncate:
      touches.Data(record.truncate().object());
      break;
    case Record::kAllocate:
      touches.Data(record.allocate().object());
      break;
    case Record::kSetAttributes:
      touches.Attributes(record.set_attributes().object());
      break;
    case Record::kSetXattr:
      touches.Attributes(record.set_xattr().object());
      break;
    case Record::kRemoveXattr:
      touches.Attributes(record.remove_xattr().object());
      break;
    case Record::OP_NOT_SET:
      break;
  }
  return touches.Take();
}

}  // namespace intermezzo
