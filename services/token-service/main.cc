// token-service: arbitrates the write tokens, knows nodes, collections and replicas.
#include "services/token-service/application.h"

int main(int argc, char** argv) {
  intermezzo::config::v1::TokenServiceConfig config;
  return intermezzo::Run(
      argc, argv, "token-service", config,
      [&]() -> intermezzo::config::v1::Runner& { return *config.mutable_runner(); },
      [&](intermezzo::RunnerContext& context) {
        return intermezzo::token::BuildTokenService(config, context);
      },
      [&] { return intermezzo::token::CheckTokenServiceConfig(config); });
}
