#include "tests/simulation/world.h"

#include <algorithm>

namespace intermezzo::simulation {

void World::At(absl::Duration when, std::function<void()> event) {
  events_.emplace(std::pair(std::max(when, now_), next_++), std::move(event));
}

bool World::Step(absl::Duration until) {
  if (events_.empty() || events_.begin()->first.first > until) {
    now_ = std::max(now_, until);
    return false;
  }
  auto node = events_.extract(events_.begin());
  now_ = std::max(now_, node.key().first);
  node.mapped()();
  return true;
}

void World::Send(Place from, Place to, std::function<void()> deliver) {
  if (!Connected(from, to) || Chance(faults_.lose)) return;
  const int copies = Chance(faults_.duplicate) ? 2 : 1;
  for (int i = 0; i < copies; ++i) {
    After(UpTo(faults_.delay), [this, from, to, deliver] {
      if (Connected(from, to)) deliver();
    });
  }
}

void World::Send(const StreamPtr& stream, bool to_b, std::function<void()> deliver) {
  if (stream->broken) return;
  if (!Connected(stream->a, stream->b) || Chance(faults_.lose)) return Break(stream);
  absl::Duration& last = to_b ? stream->last_to_b : stream->last_to_a;
  absl::Duration when = now_ + UpTo(faults_.delay);
  if (!Chance(faults_.reorder)) last = when = std::max(when, last);
  At(when, [this, stream, deliver] {
    if (stream->broken) return;
    if (!Connected(stream->a, stream->b)) return Break(stream);
    deliver();
  });
}

void World::Break(const StreamPtr& stream) {
  if (stream->broken) return;
  stream->broken = true;
  // The owner notices late.
  After(UpTo(absl::Milliseconds(200)), [stream] {
    if (stream->on_break) std::exchange(stream->on_break, nullptr)();
  });
}

}  // namespace intermezzo::simulation
