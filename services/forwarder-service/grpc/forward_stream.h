// A replica's Forward call: admits it, subscribes to the journal where its cursor ends, and passes
// entries on within the window. Once it has caught up, it takes them from the collection's tail,
// which reads the journal once for all. An entry goes from the journal's read reaction straight
// into the write to the replica, on that thread. A replica's own records, which it has, are not
// urgent: they wait a little for others. Keeps itself alive until gRPC says that the call is over.
// Reactions come from gRPC's threads; ReplicaStream's methods from any thread.
#pragma once

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "intermezzo/forwarder/v1/forwarder.pb.h"
#include "services/forwarder-service/grpc/collection.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/journal_reader.h"
#include "services/forwarder-service/grpc/journal_tail.h"

namespace intermezzo::forwarder {

class ForwardStream final : public grpc::ServerBidiReactor<v1::ForwardRequest, v1::ForwardResponse>,
                            public ReplicaStream,
                            public JournalReader::Listener,
                            public JournalTail::Member,
                            public std::enable_shared_from_this<ForwardStream> {
 public:
  // The reactor for a new call.
  static ForwardStream* Start(std::shared_ptr<Environment> environment,
                              grpc::CallbackServerContext* context);

  // ReplicaStream.
  void Close(const absl::Status& status) override;
  void Heartbeat(Seq head) override;
  void Serve(const std::string& session) override;

  // JournalReader::Listener.
  void JournalRead(JournalReader* reader, journal::v1::SubscribeResponse& message) override;
  void JournalDone(JournalReader* reader, const absl::Status& status) override;

  // JournalTail::Member.
  void TailMoved() override;
  void TailLost() override;

  // The reactor.
  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  ForwardStream(std::shared_ptr<Environment> environment, grpc::CallbackServerContext* context);

 private:
  // A message that waits to be written, with what it counts for.
  struct Outgoing {
    v1::ForwardResponse message;
    Seq last;
    uint64_t wire_bytes = 0;
    uint64_t records = 0;
  };

  void HandleHello(v1::Hello hello) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // `may_refresh`: an unknown replica is asked for at the registry before it is refused.
  void Admit(bool may_refresh) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Subscribe() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void SubscribeLater() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void HandleOutOfRange(const absl::Status& refusal) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void JournalRangeKnown(const absl::Status& refusal, const journal::v1::Journal& journal)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReadMore() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // `own_too`: also where there is nothing but the replica's own.
  void ReadTail(bool own_too) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Counts the entries of `outgoing`, which come next, and queues it. False: the stream closes.
  bool Forward(Outgoing outgoing,
               absl::FunctionRef<absl::Time(const record::v1::Entry& entry)> committed_at)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Enqueue(Outgoing outgoing) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Pump() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void DropReader() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Constant.
  const std::shared_ptr<Environment> environment_;
  grpc::CallbackServerContext* const context_;  // valid until OnDone
  const StreamId id_;
  uint64_t call_ = 0;
  std::shared_ptr<ForwardStream> self_;

  // Owned by the pending read.
  v1::ForwardRequest request_;

  absl::Mutex mu_;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;  // Finish was called
  bool done_ ABSL_GUARDED_BY(mu_) = false;      // OnDone came
  bool said_hello_ ABSL_GUARDED_BY(mu_) = false;
  v1::Hello hello_ ABSL_GUARDED_BY(mu_);
  // Set once the replica is admitted.
  std::shared_ptr<Collection> collection_ ABSL_GUARDED_BY(mu_);

  // Reading the journal.
  std::shared_ptr<JournalReader> reader_ ABSL_GUARDED_BY(mu_);
  bool reading_ ABSL_GUARDED_BY(mu_) = false;  // a message is asked for
  Seq read_ ABSL_GUARDED_BY(mu_);              // last seq read
  std::string chain_ ABSL_GUARDED_BY(mu_);     // chain value there
  absl::Duration retry_ ABSL_GUARDED_BY(mu_);
  bool in_tail_ ABSL_GUARDED_BY(mu_) = false;    // a member of the collection's tail; no reader_
  bool own_waits_ ABSL_GUARDED_BY(mu_) = false;  // a timer will read the tail
  std::vector<EntryRead> entries_ ABSL_GUARDED_BY(mu_);  // scratch

  // Writing to the replica. While writing_, the front is the message being written. Bounded by the
  // window, heartbeats being sent only where it is empty, and orders being few.
  std::deque<Outgoing> outgoing_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool wrote_lately_ ABSL_GUARDED_BY(mu_) = false;  // since the last Heartbeat()
};

}  // namespace intermezzo::forwarder
