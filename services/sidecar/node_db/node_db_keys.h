// Keys of the node's database (FORMAT.md). Big endian numbers, so that order of bytes is order of
// numbers. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "services/common/types/numbers.h"

namespace intermezzo::sidecar::node_db_keys {

inline constexpr std::string_view kState = "mstate";

std::string Object(ObjectId id);
// Every entry of `parent` has this prefix; its name follows.
std::string EntryPrefix(ObjectId parent);
std::string Entry(ObjectId parent, std::string_view name);
std::string Inode(uint64_t inode);
std::string Local(uint64_t origin_seq);
std::string Note(std::string_view name);

std::string BigEndian64(uint64_t value);
// The number in the last 8 bytes of a key of 9 (or of a value of 8).
uint64_t TrailingNumber(std::string_view bytes);

}  // namespace intermezzo::sidecar::node_db_keys
