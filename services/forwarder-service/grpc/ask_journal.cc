#include "services/forwarder-service/grpc/ask_journal.h"

#include <grpcpp/client_context.h>

#include <utility>

#include "services/common/status/status.h"
#include "services/forwarder-service/grpc/open_calls.h"

namespace intermezzo::forwarder {
namespace {

struct Question final : OpenCall {
  std::shared_ptr<Environment> environment;  // until answered
  grpc::ClientContext context;
  journal::v1::GetJournalRequest request;
  journal::v1::GetJournalResponse response;
  std::function<void(absl::StatusOr<journal::v1::Journal>)> answer;

  void Close(const absl::Status& status) override { context.TryCancel(); }
};

}  // namespace

void AskJournal(std::shared_ptr<Environment> environment, const std::string& collection,
                std::function<void(absl::StatusOr<journal::v1::Journal>)> answer) {
  auto question = std::make_shared<Question>();
  question->environment = environment;
  question->request.set_collection(collection);
  question->answer = std::move(answer);
  question->context.set_deadline(
      absl::ToChronoTime(absl::Now() + environment->options.call_timeout));
  std::shared_ptr<OpenCalls> calls = environment->calls;
  uint64_t call = calls->Add(question);
  environment->journal->async()->GetJournal(
      &question->context, &question->request, &question->response,
      [question, calls, call](const grpc::Status& status) {
        auto answer = std::move(question->answer);
        if (status.ok()) {
          answer(std::move(*question->response.mutable_journal()));
        } else {
          answer(FromGrpc(status));
        }
        answer = nullptr;
        question->environment.reset();
        calls->Remove(call);
      });
}

}  // namespace intermezzo::forwarder
