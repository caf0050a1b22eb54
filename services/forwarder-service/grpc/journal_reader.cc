#include "services/forwarder-service/grpc/journal_reader.h"

#include <utility>

#include "services/common/status/status.h"

namespace intermezzo::forwarder {

JournalReader::JournalReader(std::shared_ptr<Environment> environment,
                             journal::v1::SubscribeRequest request,
                             std::shared_ptr<Listener> listener)
    : environment_(std::move(environment)),
      request_(std::move(request)),
      listener_(std::move(listener)) {}

std::shared_ptr<JournalReader> JournalReader::Start(std::shared_ptr<Environment> environment,
                                                    journal::v1::SubscribeRequest request,
                                                    std::shared_ptr<Listener> listener) {
  auto reader = std::make_shared<JournalReader>(std::move(environment), std::move(request),
                                                std::move(listener));
  reader->self_ = reader;
  reader->call_ = reader->environment_->calls->Add(reader);
  reader->environment_->journal->async()->Subscribe(&reader->context_, &reader->request_,
                                                    reader.get());
  reader->AddHold();
  reader->StartRead(&reader->response_);
  reader->StartCall();
  return reader;
}

void JournalReader::Next() { StartRead(&response_); }

void JournalReader::Cancel() {
  context_.TryCancel();
  Release();
}

void JournalReader::Release() {
  if (held_.exchange(false)) RemoveHold();
}

void JournalReader::OnReadDone(bool ok) {
  if (ok) {
    listener_->JournalRead(this, response_);
  } else {
    Release();
  }
}

void JournalReader::OnDone(const grpc::Status& status) {
  std::shared_ptr<OpenCalls> calls = environment_->calls;
  uint64_t call = call_;
  listener_->JournalDone(this, FromGrpc(status));
  listener_.reset();
  self_.reset();  // Perhaps the last.
  calls->Remove(call);
}

}  // namespace intermezzo::forwarder
