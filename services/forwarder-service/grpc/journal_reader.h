// One Subscribe call to the journal-service. A message is read only when Next() asks for it; while
// nobody asks, gRPC's flow control holds the journal back. Keeps itself alive until the call is
// over. Next() and Cancel() are called by the listener under the listener's own lock; the
// listener's methods are called from gRPC's threads, one at a time.
#pragma once

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <memory>

#include "absl/status/status.h"
#include "intermezzo/journal/v1/journal.pb.h"
#include "services/forwarder-service/grpc/environment.h"
#include "services/forwarder-service/grpc/open_calls.h"

namespace intermezzo::forwarder {

class JournalReader final : public grpc::ClientReadReactor<journal::v1::SubscribeResponse>,
                            public OpenCall,
                            public std::enable_shared_from_this<JournalReader> {
 public:
  class Listener {
   public:
    virtual ~Listener() = default;
    // The message that Next() asked for; may be taken apart. Nothing more comes before Next().
    virtual void JournalRead(JournalReader* reader, journal::v1::SubscribeResponse& message) = 0;
    // Last call: how the subscription ended.
    virtual void JournalDone(JournalReader* reader, const absl::Status& status) = 0;
  };

  // Starts the call and asks for the first message. The listener may hear of it before this
  // returns, from another thread.
  static std::shared_ptr<JournalReader> Start(std::shared_ptr<Environment> environment,
                                              journal::v1::SubscribeRequest request,
                                              std::shared_ptr<Listener> listener);

  // Not while a message is asked for, nor after Cancel().
  void Next();
  // Idempotent. JournalDone still comes.
  void Cancel();

  // Its stream cancels it.
  void Close(const absl::Status& status) override {}

  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

  JournalReader(std::shared_ptr<Environment> environment, journal::v1::SubscribeRequest request,
                std::shared_ptr<Listener> listener);

 private:
  void Release();

  const std::shared_ptr<Environment> environment_;
  const journal::v1::SubscribeRequest request_;
  // Until OnDone.
  std::shared_ptr<Listener> listener_;
  std::shared_ptr<JournalReader> self_;
  uint64_t call_ = 0;

  grpc::ClientContext context_;
  journal::v1::SubscribeResponse response_;
  // gRPC's hold, which lets Next() be called from outside; given back once.
  std::atomic<bool> held_{true};
};

}  // namespace intermezzo::forwarder
