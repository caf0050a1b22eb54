// Pieces of file content as they travel in a snapshot.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"

namespace intermezzo::sidecar {

// Most bytes of one chunk before encoding.
inline constexpr size_t kChunkBytes = 1024 * 1024;

// Encodes (zstd where it saves at least an eighth) and adds the digest.
forwarder::v1::Chunk SealChunk(uint64_t object, uint64_t offset, std::string_view bytes);
// DATA_LOSS where the bytes are not those of the digest, or too many.
absl::StatusOr<std::string> OpenChunk(const forwarder::v1::Chunk& chunk);

}  // namespace intermezzo::sidecar
