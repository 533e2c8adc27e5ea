"""ENGINE=vllm: vLLM's engine with our protocol."""
