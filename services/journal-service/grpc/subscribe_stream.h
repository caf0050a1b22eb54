// One Subscribe call: writes the next entries when the former write is done, and waits for the
// journal's word when there are none. What is in the tail cache is sent from the thread that
// brings the word; the disk is read on the worker pool only.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/journal-service/core/journal.h"
#include "services/journal-service/core/observer.h"
#include "services/journal-service/grpc/worker_pool.h"

namespace intermezzo::journal {

class SubscribeStream final : public grpc::ServerWriteReactor<v1::SubscribeResponse>,
                              public std::enable_shared_from_this<SubscribeStream> {
 public:
  struct Surroundings {
    JournalStore& store;
    WorkerPool& workers;
    JournalObserver& observer;
    Clock clock;
  };
  // `ended` is called once, as the last thing. `around` outlives the stream.
  static std::shared_ptr<SubscribeStream> Start(const v1::SubscribeRequest& request,
                                                const Surroundings& around,
                                                std::function<void()> ended);

  // Sends a heartbeat where nothing was sent since the last tick.
  void Tick();
  // Ends with the status.
  void End(absl::Status status);

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  SubscribeStream(const v1::SubscribeRequest& request, const Surroundings& around,
                  std::function<void()> ended);

  absl::Status Begin();
  void OnEvent(const JournalEvent& event);
  void Wake();
  // Continues reading; called by whoever set busy_.
  void Pump();
  void ReadDisk();
  void Send(const std::vector<EntryPtr>& entries);
  void FinishWith(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const v1::SubscribeRequest request_;
  const Surroundings& around_;
  const std::function<void()> ended_;
  std::shared_ptr<SubscribeStream> self_;  // until OnDone
  ReadOptions options_;

  // Set by Begin, constant afterwards.
  std::shared_ptr<Journal> journal_;
  WatchId watch_ = 0;

  // Of whoever holds busy_.
  Seq next_;
  v1::SubscribeResponse response_;

  absl::Mutex mu_;
  bool busy_ ABSL_GUARDED_BY(mu_) = true;    // reading or writing
  bool again_ ABSL_GUARDED_BY(mu_) = false;  // woken while busy
  bool sent_ ABSL_GUARDED_BY(mu_) = false;   // since the last tick
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status end_ ABSL_GUARDED_BY(mu_);  // to be finished with when not busy
};

}  // namespace intermezzo::journal
