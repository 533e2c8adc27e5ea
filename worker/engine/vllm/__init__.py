"""ENGINE=vllm: vLLM's engine behind our protocol."""
