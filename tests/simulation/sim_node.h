// A node in the simulated world: the real connection state machine around a model replica. The
// replica keeps what the journal gave it (the base) and its own unconfirmed records beside it, so
// that every prefix can be checked. Its disk forgets nothing; it crashes, pauses and comes back.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "services/sidecar/session/connection.h"
#include "tests/simulation/checker.h"
#include "tests/simulation/sim_server.h"
#include "tests/simulation/world.h"

namespace intermezzo::simulation {

using sidecar::Action;
using sidecar::Connection;
using sidecar::Input;
using sidecar::Monotonic;
namespace action = sidecar::action;
namespace input = sidecar::input;

class SimNode {
 public:
  SimNode(World& world, Checker& checker, SimServer& server, Place place, bool offline_writes);

  // Tries a random update now; it is parked where the gate is closed.
  void Update();
  void Crash();
  void Restart();
  void Pause();
  void Resume();

  bool alive() const { return connection_ != nullptr; }
  // Would a write of this moment be made under a token believed valid?
  bool writes_under_token() const;
  bool quiet() const;
  Seq cursor() const { return cursor_; }
  const std::string& name() const { return name_; }
  const ModelTree& base() const { return base_; }
  std::string StateText() const;

 private:
  struct Pending {
    uint64_t origin_seq;
    record::v1::Record record;
    std::string payload;
  };

  Monotonic Clock() const { return absl::Seconds(1000) * place_ + world_.now() * rate_; }
  // Runs `event` on this node's thread: not while paused, not in a later life.
  std::function<void()> Mine(std::function<void()> event);
  void Step(const Input& input);
  void Do(const Action& action);
  void ArmTick();

  void Capture();
  // Up to here nothing waits any more: confirmed, or set aside.
  uint64_t Settled() const;
  ModelTree Current() const;
  void OpenGate(Epoch epoch);

  void ConnectForward();
  void Received(const StreamPtr& stream, const SimServer::Batch& batch);
  bool ApplyEntry(const record::v1::Entry& entry);
  void AckNow();

  void ConnectAppend();
  void SendPending();

  World& world_;
  Checker& checker_;
  SimServer& server_;
  const Place place_;
  const bool offline_writes_;
  const std::string name_;
  const Ordinal ordinal_;
  const double rate_;  // its clock against the world's

  // Durable.
  ModelTree base_;
  std::deque<Pending> pending_;
  Seq cursor_;
  std::string chain_;
  uint64_t last_origin_seq_ = 0;
  uint64_t confirmed_ = 0;  // what the journal is known to have
  uint64_t objects_ = 0;

  // Of this life.
  uint64_t life_ = 0;
  bool paused_ = false;
  std::vector<std::function<void()>> while_paused_;
  std::unique_ptr<Connection> connection_;
  bool gate_open_ = false;
  Epoch gate_epoch_;
  int parked_ = 0;
  uint64_t call_ = 0;
  Monotonic armed_ = absl::InfiniteDuration();
  StreamPtr forward_;
  StreamPtr append_;
  Epoch append_epoch_;
  uint64_t append_sent_ = 0;
};

}  // namespace intermezzo::simulation
