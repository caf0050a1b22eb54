// Records and payloads as bytes: the one place that seals, opens, hashes and checks them.
// Pure functions, safe from any thread.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "intermezzo/record/v1/record.pb.h"
#include "services/common/types/numbers.h"

namespace intermezzo {

inline constexpr size_t kMaxRecordBytes = 256 * 1024;      // serialized Record
inline constexpr size_t kMaxPayloadBytes = 1024 * 1024;    // uncompressed payload
inline constexpr size_t kMaxBatchBytes = 4 * 1024 * 1024;  // entries of one message together
inline constexpr int kMaxBatchRecords = 1000;              // entries of one message
inline constexpr int kMaxMessageBytes = 16 * 1024 * 1024;  // gRPC limit, every channel
inline constexpr int kMaxRecordTouches = 16;

// XXH3 128 bit in canonical (big endian) form, 16 bytes. Source: xxHash 0.8 specification.
std::string Xxh3(std::string_view bytes);

// A payload as it goes into an entry; without bytes: none.
struct SealedPayload {
  record::v1::PayloadDigest digest;
  record::v1::PayloadCodec codec = record::v1::PAYLOAD_CODEC_UNSPECIFIED;
  std::string bytes;
};

// Digests the payload, compresses it with zstd where that saves at least an eighth.
SealedPayload SealPayload(std::string_view payload);

// Sets the payload's digest in `record`, serializes it and wraps both into an entry (seq 0).
record::v1::Entry SealEntry(record::v1::Record& record, SealedPayload payload);
record::v1::Entry SealEntry(record::v1::Record record, std::string_view payload);

// Parses entry.record and checks it wholly: sizes, names, extents, touches, kinds.
// INVALID_ARGUMENT says which field is wrong.
absl::StatusOr<record::v1::Record> OpenRecord(const record::v1::Entry& entry);

// The payload of an opened entry, decompressed. DATA_LOSS where it does not match its digest,
// also where its claimed length is not its true one; never allocates more than kMaxPayloadBytes.
absl::StatusOr<std::string> OpenPayload(const record::v1::Entry& entry,
                                        const record::v1::Record& record);

// Chain value of an entry, from that of the one before (empty before the first).
std::string ChainHash(std::string_view previous_chain, Seq seq, std::string_view record);

// The objects' directory entries and aspects that a record of this op touches, with `against` 0:
// (aspect, object, name) in a fixed order. The origin fills in `against`; the journal and the
// replicas use it to check that a record states what it must.
std::vector<record::v1::Touch> RequiredTouches(const record::v1::Record& record);

// Short text for people: "write 4096 B at 8192 of 12:345".
std::string Describe(const record::v1::Record& record);

}  // namespace intermezzo
