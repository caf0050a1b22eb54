#include "services/sidecar/snapshot/chunk.h"

#include "services/common/record/codec.h"

namespace intermezzo::sidecar {

static_assert(kChunkBytes <= kMaxPayloadBytes);

// A chunk is encoded as a record's payload is, by the same code.
forwarder::v1::Chunk SealChunk(uint64_t object, uint64_t offset, std::string_view bytes) {
  record::v1::Entry entry = SealEntry(record::v1::Record(), bytes);
  record::v1::Record sealed;
  sealed.ParseFromString(entry.record());
  forwarder::v1::Chunk chunk;
  chunk.set_object(object);
  chunk.set_offset(offset);
  chunk.mutable_data()->swap(*entry.mutable_payload());
  chunk.set_codec(entry.codec());
  chunk.mutable_digest()->Swap(sealed.mutable_payload());
  return chunk;
}

absl::StatusOr<std::string> OpenChunk(const forwarder::v1::Chunk& chunk) {
  record::v1::Entry entry;
  entry.set_payload(chunk.data());
  entry.set_payload_length(chunk.data().size());
  entry.set_codec(chunk.codec());
  record::v1::Record record;
  *record.mutable_payload() = chunk.digest();
  return OpenPayload(entry, record);
}

}  // namespace intermezzo::sidecar
