"""What administers each engine, as "/path" or "METHOD /path", with a * at the end for whatever follows."""

from __future__ import annotations

TGI: frozenset[str] = frozenset()  # it has none

VLLM = frozenset(
    {"/sleep", "/wake_up", "/pause", "/resume", "/abort_requests", "/release_kv_cache_memory"}
    | {"/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/collective_rpc", "/scale_elastic_ep"}
    | {"/start_profile", "/stop_profile", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"}
    | {"/init_weight_transfer_engine", "/update_weights", "/start_weight_update", "/finish_weight_update"}
    | {"/start_draft_weight_update", "/update_weight_version", "/weight_checker"}
)

SGLANG = frozenset(
    {"/release_memory_occupation", "/resume_memory_occupation", "/pause_generation", "/continue_generation"}
    | {"/flush_cache", "/clear_hicache_storage_backend", "/abort_request", "/set_internal_state", "/configure_logging"}
    | {"/load_lora_adapter", "/load_lora_adapter_from_tensors", "/unload_lora_adapter", "/freeze_gc", "/slow_down"}
    | {"/start_profile", "/stop_profile", "/start_expert_distribution_record", "/stop_expert_distribution_record"}
    | {"/dump_expert_distribution_record", "/update_weights_from_disk", "/update_weights_from_tensor", "/weights_checker"}
    | {"/update_weights_from_distributed", "/update_weights_from_ipc", "/update_weight_version", "/get_weights_by_name"}
    | {"/init_weights_update_group", "/destroy_weights_update_group", "/init_weights_send_group_for_remote_instance"}
    | {"/send_weights_to_remote_instance", "PUT /hicache/storage-backend", "DELETE /hicache/storage-backend"}
)

# GET /slots, /lora-adapters and /props only tell; the same paths with POST change what all others get
LLAMACPP = frozenset({"POST /slots/*", "POST /lora-adapters", "POST /props", "/models/load", "/models/unload"})

TRANSFORMERS = frozenset({"/load_model", "/reset"})

ALL = TGI | VLLM | SGLANG | LLAMACPP | TRANSFORMERS
