#include "services/sidecar/node_db/node_db_keys.h"

#include <endian.h>

#include <cstring>

namespace intermezzo::sidecar::node_db_keys {
namespace {

std::string Tagged(char tag, uint64_t number, std::string_view rest = {}) {
  std::string key;
  key.reserve(9 + rest.size());
  key.push_back(tag);
  uint64_t big = htobe64(number);
  key.append(reinterpret_cast<const char*>(&big), sizeof(big));
  key.append(rest);
  return key;
}

}  // namespace

std::string Object(ObjectId id) { return Tagged('o', id.value()); }
std::string EntryPrefix(ObjectId parent) { return Tagged('e', parent.value()); }
std::string Entry(ObjectId parent, std::string_view name) {
  return Tagged('e', parent.value(), name);
}
std::string Inode(uint64_t inode) { return Tagged('i', inode); }
std::string Local(uint64_t origin_seq) { return Tagged('l', origin_seq); }
std::string Note(std::string_view name) { return std::string("n").append(name); }

std::string BigEndian64(uint64_t value) {
  uint64_t big = htobe64(value);
  return std::string(reinterpret_cast<const char*>(&big), sizeof(big));
}

uint64_t TrailingNumber(std::string_view bytes) {
  uint64_t big = 0;
  std::memcpy(&big, bytes.data() + bytes.size() - sizeof(big), sizeof(big));
  return be64toh(big);
}

}  // namespace intermezzo::sidecar::node_db_keys
