// Numbers of the domain as types, so that a seq cannot be passed where an epoch is meant.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>

namespace intermezzo {

// Spoken between all parts; a node of another version is refused at registration.
inline constexpr uint32_t kProtocolVersion = 1;

// A 64 bit number with a meaning of its own; 0 is "none".
template <typename Tag>
class Number {
 public:
  constexpr Number() = default;
  constexpr explicit Number(uint64_t value) : value_(value) {}
  constexpr uint64_t value() const { return value_; }
  constexpr explicit operator bool() const { return value_ != 0; }
  constexpr Number next() const { return Number(value_ + 1); }
  friend constexpr auto operator<=>(Number, Number) = default;
  friend std::ostream& operator<<(std::ostream& out, Number n) { return out << n.value_; }
  template <typename H>
  friend H AbslHashValue(H h, Number n) {
    return H::combine(std::move(h), n.value_);
  }

 private:
  uint64_t value_ = 0;
};

// Position in the server's journal of a collection, dense from 1.
using Seq = Number<struct SeqTag>;
// Number of a token grant; only grows.
using Epoch = Number<struct EpochTag>;

// Names a node's incarnation: 1 to 2^24 - 1, given by the registry, never reused.
using Ordinal = Number<struct OrdinalTag>;
inline constexpr uint64_t kMaxOrdinal = (uint64_t{1} << 24) - 1;
// The part of an id or version below the ordinal: a counter of 40 bits.
inline constexpr int kCounterBits = 40;
inline constexpr uint64_t kMaxCounter = (uint64_t{1} << kCounterBits) - 1;

// An ordinal and a counter in one 64 bit number.
template <typename Tag>
class Stamp : public Number<Tag> {
 public:
  constexpr Stamp() = default;
  constexpr explicit Stamp(uint64_t value) : Number<Tag>(value) {}
  constexpr Stamp(Ordinal ordinal, uint64_t counter)
      : Number<Tag>((ordinal.value() << kCounterBits) | counter) {}
  constexpr Ordinal ordinal() const { return Ordinal(this->value() >> kCounterBits); }
  constexpr uint64_t counter() const { return this->value() & kMaxCounter; }
};

// Identity of a file system object within its collection; never reused. FUSE node ids are these.
using ObjectId = Stamp<struct ObjectIdTag>;
// Every collection's root directory (FUSE_ROOT_ID): ordinal 0, counter 1.
inline constexpr ObjectId kRootObject{1};

// Unique name of a record and of the state that it makes: the origin's ordinal and origin seq.
using Version = Stamp<struct VersionTag>;
// Version of everything in a fresh, empty collection's root.
inline constexpr Version kInitialVersion{1};

}  // namespace intermezzo
