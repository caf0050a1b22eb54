// The simulated world: virtual time, a queue of events, a network that delays, loses, duplicates,
// reorders and partitions, all from one seed. Single-threaded; every run of a seed is the same.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "absl/time/time.h"

namespace intermezzo::simulation {

// A place that can be cut off: the server, or a node.
using Place = int;
inline constexpr Place kServer = 0;

struct Faults {
  double lose = 0.01;       // a message never arrives
  double duplicate = 0.01;  // a call arrives twice
  double reorder = 0.005;   // a message of a stream overtakes those before it
  absl::Duration delay = absl::Milliseconds(5);
};

// A connection-like pair of ordered flows. It breaks as a whole, and its owner is told.
struct Stream {
  Stream(Place a, Place b) : a(a), b(b) {}
  const Place a, b;
  bool broken = false;
  std::function<void()> on_break;  // at a's side, once
  absl::Duration last_to_a, last_to_b;
};
using StreamPtr = std::shared_ptr<Stream>;

class World {
 public:
  explicit World(uint64_t seed) : random_(seed) {}

  absl::Duration now() const { return now_; }
  Faults& faults() { return faults_; }

  uint64_t Below(uint64_t n) { return std::uniform_int_distribution<uint64_t>(0, n - 1)(random_); }
  bool Chance(double p) { return std::uniform_real_distribution<double>(0, 1)(random_) < p; }
  absl::Duration UpTo(absl::Duration d) {
    return d * std::uniform_real_distribution<double>(0, 1)(random_);
  }

  void At(absl::Duration when, std::function<void()> event);
  void After(absl::Duration delay, std::function<void()> event) { At(now_ + delay, event); }

  // Runs the next event. False where there is none before `until`; then it is that late.
  bool Step(absl::Duration until);

  void Partition(Place a, Place b) { cut_.insert({std::min(a, b), std::max(a, b)}); }
  void Heal(Place a, Place b) { cut_.erase({std::min(a, b), std::max(a, b)}); }
  void HealAll() { cut_.clear(); }
  bool Connected(Place a, Place b) const {
    return !cut_.contains({std::min(a, b), std::max(a, b)});
  }

  // A datagram: may be lost, late, twice.
  void Send(Place from, Place to, std::function<void()> deliver);
  // A message of a stream: in order, or the stream breaks.
  void Send(const StreamPtr& stream, bool to_b, std::function<void()> deliver);
  void Break(const StreamPtr& stream);

 private:
  std::mt19937_64 random_;
  Faults faults_;
  absl::Duration now_;
  uint64_t next_ = 0;
  std::map<std::pair<absl::Duration, uint64_t>, std::function<void()>> events_;
  std::set<std::pair<Place, Place>> cut_;
};

}  // namespace intermezzo::simulation
