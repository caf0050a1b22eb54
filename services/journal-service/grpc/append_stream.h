// One Append call: many batches in flight, answers in order, one per request.
//
// Owns itself until gRPC is done with it and no append of its is in flight. While too much is in
// flight it does not read, so that the sender is held back by flow control.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "intermezzo/journal/v1/journal.grpc.pb.h"
#include "services/journal-service/core/journal.h"

namespace intermezzo::journal {

class AppendStream final : public grpc::ServerBidiReactor<v1::AppendRequest, v1::AppendResponse>,
                           public std::enable_shared_from_this<AppendStream> {
 public:
  // `ended` is called once, as the last thing.
  static std::shared_ptr<AppendStream> Start(grpc::CallbackServerContext* context,
                                             JournalStore& store, std::function<void()> ended);

  // Reads no more; ends with UNAVAILABLE once what is in flight was answered.
  void Drain();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  AppendStream(grpc::CallbackServerContext* context, JournalStore& store,
               std::function<void()> ended)
      : context_(context), store_(store), ended_(std::move(ended)) {}

  absl::Status Take();
  void OnAppended(size_t bytes, const absl::StatusOr<Confirmation>& result);
  void Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReadMore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Proceed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  grpc::CallbackServerContext* const context_;
  JournalStore& store_;
  const std::function<void()> ended_;
  std::shared_ptr<AppendStream> self_;  // until OnDone

  // Of the one read at a time.
  v1::AppendRequest request_;
  std::shared_ptr<Journal> journal_;  // of the last request

  absl::Mutex mu_;
  bool reading_ ABSL_GUARDED_BY(mu_) = true;
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool read_all_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  size_t in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  size_t in_flight_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<v1::AppendResponse> answers_ ABSL_GUARDED_BY(mu_);  // front: being written
};

}  // namespace intermezzo::journal
