# One entry for everything; each target prints what it runs.

.PHONY: help demo test lint unit bench soak smuggling autobahn conformance differential http-suite fuzz fmt deps clean

help: ## This list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## Build, then run the whole story in one process
	cargo build --release --locked -p wasmgate
	./target/release/wasmgate demo $(DEMO_ARGS)

test: deps lint unit ## Install what the tests need, then run every check and test

deps: ## Install what the tests need (Debian packages, a plug-in target, Go, cargo-deny)
	./scripts/test-deps

lint: ## Formatting, clippy with warnings denied, licences and sources of dependencies
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	./target/tools/bin/cargo-deny --locked check licenses bans sources

unit: ## Unit, scenario, registry and Envoy comparison tests
	cargo test --workspace --locked

bench: ## Run nginx, HAProxy, Envoy and Wasmgate in turn; report in bench/out
	./scripts/test-deps bench
	cargo build --release --locked -p wasmgate -p wasmgate-bench
	mkdir -p target/plugins
	cd examples/plugins/go/header-authorization && GOOS=wasip1 GOARCH=wasm GOFLAGS=-buildvcs=false PATH="$$PATH:$(CURDIR)/target/plugins/go-venv/bin" go build -buildmode=c-shared -o $(CURDIR)/target/plugins/bench-go.wasm .
	cd bench/plugins/calls && cargo build --release --locked --target wasm32-wasip1 --target-dir $(CURDIR)/target/plugins
	./target/release/wasmgate-bench --wasmgate target/release/wasmgate \
		--go-plugin target/plugins/bench-go.wasm \
		--rust-plugin examples/plugins/rust/header-authorization/header-authorization.wasm \
		--calls-plugin target/plugins/wasm32-wasip1/release/calls.wasm $(BENCH_ARGS)

soak: ## Mixed load for SECONDS (1800) with a reload every second and a plug-in swap every ten: nothing may fail or grow
	cargo build --release --locked -p wasmgate -p wasmgate-soak
	./target/release/wasmgate-soak --wasmgate target/release/wasmgate --seconds $(or $(SECONDS),1800)

smuggling: ## Run the smuggling corpus through Wasmgate in front of nginx, Apache, Node and a raw socket; BACKENDS=raw,nginx for a part
	./scripts/test-deps
	cargo build --release --locked -p wasmgate -p wasmgate-smuggling
	./target/release/wasmgate-smuggling --wasmgate target/release/wasmgate $(if $(BACKENDS),--backends $(BACKENDS))

autobahn: ## Run Autobahn's own WebSocket suite with and without the gateway in between; PYTHON names a Python 2.7
	cargo build --release --locked -p wasmgate
	./scripts/autobahn

conformance: ## Run every Proxy-Wasm behaviour on HOST=wasmgate|in-process|envoy|both|all in LANGUAGE and print the matrix
	./scripts/test-deps
	cargo build --release --locked -p wasmgate -p wasmgate-conformance
	./target/release/wasmgate-conformance --host $(or $(HOST),all) --language $(or $(LANGUAGE),rust,go,c,assemblyscript)

differential: ## Compare COUNT (2000) random scripts on Wasmgate and Envoy, from SEED on, in LANGUAGE (rust,go)
	./scripts/test-deps
	cargo build --release --locked -p wasmgate -p wasmgate-conformance
	./target/release/wasmgate-conformance --fuzz $(or $(COUNT),2000) --seed $(or $(SEED),1) --language $(or $(LANGUAGE),rust,go)

http-suite: ## Run every case of HTTP on the wire on HOST=wasmgate|nginx|haproxy|envoy|all and print who agrees
	./scripts/test-deps bench
	cargo build --release --locked -p wasmgate -p wasmgate-http-suite
	./target/release/wasmgate-http-suite --host $(or $(HOST),all)

fuzz: ## Run libFuzzer on TARGET (pairs hostcalls property expression module_bytes module http1 http2 proxy_protocol access_log_format path) for SECONDS (60)
	./scripts/test-deps fuzz
	PATH="$(CURDIR)/target/tools/bin:$$PATH" RUSTC_BOOTSTRAP=1 cargo fuzz run --fuzz-dir fuzz --sanitizer none $(or $(TARGET),hostcalls) -- -max_total_time=$(or $(SECONDS),60) -max_len=4096

fmt: ## Format everything
	cargo fmt --all

clean: ## Remove what was built
	cargo clean
