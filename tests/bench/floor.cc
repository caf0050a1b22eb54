// The floor under write-to-visible: two gRPC round trips on loopback and one synced RocksDB write,
// with nothing else around them.
//
//   floor --data DIR --count N
//
// The gRPC server is another process. A line a sample, in microseconds: two unary calls and the
// write; two round trips on a stream that is open already, and the write; the write alone.
#include <grpcpp/create_channel.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>
#include <rocksdb/db.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "intermezzo/forwarder/v1/forwarder.grpc.pb.h"

namespace {

using Clock = std::chrono::steady_clock;
using intermezzo::forwarder::v1::ForwarderService;
using intermezzo::forwarder::v1::ForwardRequest;
using intermezzo::forwarder::v1::ForwardResponse;
using intermezzo::forwarder::v1::WaitReplicasRequest;
using intermezzo::forwarder::v1::WaitReplicasResponse;

constexpr size_t kBytes = 1024;  // the update's payload

[[noreturn]] void Die(const std::string& what) {
  std::cerr << "floor: " << what << std::endl;
  std::exit(1);
}

// Answers at once.
class Echo final : public ForwarderService::Service {
 public:
  grpc::Status WaitReplicas(grpc::ServerContext*, const WaitReplicasRequest* request,
                            WaitReplicasResponse* response) override {
    response->set_seq(request->seq());
    return grpc::Status::OK;
  }
  grpc::Status Forward(grpc::ServerContext*,
                       grpc::ServerReaderWriter<ForwardResponse, ForwardRequest>* stream) override {
    ForwardRequest request;
    ForwardResponse response;
    while (stream->Read(&request)) {
      response.mutable_entries()->set_head_seq(request.ack().seq());
      if (!stream->Write(response)) break;
    }
    return grpc::Status::OK;
  }
};

// The server's process: writes its port to `to_parent`, ends with its parent.
[[noreturn]] void Serve(int to_parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  Echo echo;
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(&echo);
  const auto server = builder.BuildAndStart();
  if (server == nullptr || write(to_parent, &port, sizeof(port)) != sizeof(port)) std::exit(1);
  server->Wait();
  std::exit(0);
}

double Microseconds(Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options;
  for (int i = 1; i + 1 < argc; i += 2) options[argv[i]] = argv[i + 1];
  const int count = std::atoi(options["--count"].c_str());
  if (options["--data"].empty() || count < 1) {
    std::cerr << "usage: floor --data DIR --count N\n";
    return 2;
  }
  int ports[2];
  if (pipe(ports) != 0) Die("pipe");
  const pid_t server = fork();  // before any gRPC is used
  if (server < 0) Die("fork");
  if (server == 0) Serve(ports[1]);
  int port = 0;
  if (read(ports[0], &port, sizeof(port)) != sizeof(port)) Die("the server did not start");

  rocksdb::DB* opened = nullptr;
  rocksdb::Options database_options;
  database_options.create_if_missing = true;
  if (!rocksdb::DB::Open(database_options, options["--data"], &opened).ok()) {
    Die("cannot open a database in " + options["--data"]);
  }
  const std::unique_ptr<rocksdb::DB> database(opened);
  const auto stub = ForwarderService::NewStub(
      grpc::CreateChannel("127.0.0.1:" + std::to_string(port), grpc::InsecureChannelCredentials()));
  grpc::ClientContext stream_context;
  const auto stream = stub->Forward(&stream_context);

  const std::string bytes(kBytes, 'x');
  rocksdb::WriteOptions synced;
  synced.sync = true;
  const auto unary = [&](uint64_t n) {
    grpc::ClientContext context;
    WaitReplicasRequest request;
    WaitReplicasResponse response;
    request.set_collection(bytes);
    request.set_seq(n);
    if (!stub->WaitReplicas(&context, request, &response).ok()) Die("call failed");
  };
  const auto round_trip = [&](uint64_t n) {
    ForwardRequest request;
    ForwardResponse response;
    request.mutable_ack()->set_seq(n);
    if (!stream->Write(request) || !stream->Read(&response)) Die("stream broke");
  };
  const auto put = [&](uint64_t n) {
    if (!database->Put(synced, "record " + std::to_string(n), bytes).ok()) Die("write failed");
  };
  constexpr int kWarmUp = 20;
  for (int n = -kWarmUp; n < count; ++n) {
    const Clock::time_point begin = Clock::now();
    unary(n);
    unary(n);
    const Clock::time_point after_unary = Clock::now();
    put(n);
    const Clock::time_point after_put = Clock::now();
    round_trip(n);
    round_trip(n);
    const Clock::time_point after_stream = Clock::now();
    if (n < 0) continue;
    const double write = Microseconds(after_put - after_unary);
    printf("%.1f %.1f %.1f\n", Microseconds(after_unary - begin) + write,
           Microseconds(after_stream - after_put) + write, write);
  }
  kill(server, SIGKILL);
  return 0;
}
