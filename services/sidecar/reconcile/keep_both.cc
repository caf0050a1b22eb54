#include "services/sidecar/reconcile/keep_both.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/common/log/log.h"
#include "services/common/types/view.h"
#include "services/sidecar/reconcile/replayer.h"
#include "services/sidecar/reconcile/reset.h"

namespace intermezzo::sidecar {
namespace {

constexpr absl::Duration kDrainLook = absl::Milliseconds(500);
constexpr absl::Duration kMinBackoff = absl::Milliseconds(50);
constexpr absl::Duration kMaxBackoff = absl::Seconds(5);

// Another attempt may go better.
bool IsPassing(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsDeadlineExceeded(status) || absl::IsAborted(status) || absl::IsCancelled(status) ||
         absl::IsNotFound(status);
}

}  // namespace

absl::Status KeepBoth::Resolve(Seq at_least, const absl::Status& why, Replica& replica) {
  log::Info("reconciling", {{"collection", replica.options().collection.str()},
                            {"at_least", absl::StrCat(at_least.value())},
                            {"reason", std::string(why.message())}});
  auto store = ConflictStore::Open(options_.store_dir);
  if (!store.ok()) return store.status();
  replica.gate().Pause();
  absl::Status status = Drain(replica);
  if (status.ok()) status = Queue(replica, **store);
  if (status.ok()) status = Finish(replica, **store, at_least);
  if (status.ok()) replica.gate().Unpause();
  return status;
}

absl::Status KeepBoth::Resume(Replica& replica) {
  if (replica.db().State().replay_through() == 0) return absl::OkStatus();
  log::Info("reconciling goes on", {{"collection", replica.options().collection.str()}});
  auto store = ConflictStore::Open(options_.store_dir);
  if (!store.ok()) return store.status();
  replica.gate().Pause();
  absl::Status status = Finish(replica, **store, replica.cursor());
  if (status.ok()) replica.gate().Unpause();
  return status;
}

absl::Status KeepBoth::Drain(Replica& replica) {
  while (!replica.gate().WaitDrained(kDrainLook).ok()) {
    if (absl::Status status = options_.wait(absl::ZeroDuration()); !status.ok()) return status;
  }
  return replica.CutAll();
}

absl::Status KeepBoth::Queue(Replica& replica, ConflictStore& store) {
  absl::MutexLock lock(&replica.update_lock());
  storage::v1::ReplicaRow state = replica.state();
  if (state.replay_through() != 0) return absl::OkStatus();
  if (absl::Status status = store.DropLocalVersions(); !status.ok()) return status;
  // 0 would say that nothing waits. The journal takes numbers that are left out for no gap.
  if (state.last_origin_seq() == 0) state.set_last_origin_seq(1);
  state.set_replay_through(state.last_origin_seq());
  state.set_first_replayed(state.last_origin_seq() + 1);
  state.set_reset_done(false);
  auto batch = replica.mutable_db().NewBatch();
  batch->PutState(state);
  absl::Status status = replica.mutable_db().Commit(std::move(batch), /*sync=*/true);
  return status.ok() ? replica.ReloadState() : status;
}

absl::Status KeepBoth::Finish(Replica& replica, ConflictStore& store, Seq at_least) {
  absl::Duration backoff = kMinBackoff;
  bool hindered = false;
  for (;;) {
    absl::Status status;
    if (!replica.db().State().reset_done()) {
      std::unique_ptr<ServerState> server = options_.server();
      status = Reset(replica, store, *server).Run(at_least, options_.presto);
      // What the source sends is not believed: another one may send it better.
      if (absl::IsDataLoss(status)) status = absl::UnavailableError(status.message());
    }
    if (status.ok()) {
      Replayer replayer(replica, store, options_.conflict);
      status = replayer.Run();
    }
    if (status.ok()) {
      if (hindered && options_.hindered) options_.hindered(absl::OkStatus());
      return status;
    }
    if (!IsPassing(status) || !replica.failure().ok()) return status;
    log::Warning("reconciling waits", {{"collection", replica.options().collection.str()},
                                       {"error", std::string(status.message())}});
    hindered = true;
    if (options_.hindered) options_.hindered(status);
    if (absl::Status stop = options_.wait(backoff); !stop.ok()) return stop;
    backoff = std::min(backoff * 2, kMaxBackoff);
  }
}

}  // namespace intermezzo::sidecar
