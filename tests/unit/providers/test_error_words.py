"""What vendors' names and words mean, the same behind every adapter."""

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from contracts.errors import ErrorCode, FleetError
from workers.providers.anthropic.errors import ERRORS as ANTHROPIC
from workers.providers.google.errors import ERRORS as GOOGLE
from workers.providers.ollama.errors import ERRORS as OLLAMA
from workers.providers.openai.errors import ERRORS as OPENAI

FromBody = Callable[..., FleetError]


ADAPTERS: dict[str, FromBody] = {
    "openai": OPENAI.from_body,
    "anthropic": ANTHROPIC.from_body,
    "google": GOOGLE.from_body,
    "ollama": OLLAMA.from_body,
}

TOO_LONG = {
    "xai": "This model's maximum prompt length is 131072 but the request contains 200001 tokens.",
    "kimi": "Invalid request: Your request exceeded model token limit: 262144 (requested: 300120)",
    "copilot": "prompt token count of 140001 exceeds the limit of 128000",
    "groq": "Please reduce the length of the messages or completion.",
    "bedrock": "Input is too long for requested model.",
    "bedrock-converse": "The model returned the following errors: Input Tokens Exceeded: Number of input "
    "tokens exceeds "
    "maximum length. Please update the input to try again.",
    "dashscope": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]",
    "dashscope-total": "Total message token length exceed model limit (32000 tokens).",
    "glm": "Prompt exceeds max length",
    "glm-more": "tokens in request more than max tokens allowed",
    "glm-hub": "Input length 877338 exceeds the maximum allowed input length of 639968 tokens",
    "together": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 8193. Given: "
    "9000 `inputs` tokens",
    "together-sglang": "The input (516368 tokens) is longer than the model's context length (262144 tokens).",
    "tgi": "Input validation error: `inputs` must have less than 4096 tokens. Given: 5000",
    "deepinfra": "The input token count (140000) exceeds the maximum number of tokens allowed (131072).",
    "fireworks": "The prompt is too long: 210000, model maximum context length: 131071",
    "mistral": "Prompt contains 150000 tokens and 0 draft tokens, too large for model with 131072 "
    "maximum context length",
    "cohere": "too many tokens: total number of tokens in the prompt cannot exceed 4081 - received 5000.",
    "vllm": "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
    "vllm-prompt": "The decoder prompt (length 40000) is longer than the maximum model length of 32768.",
    "vllm-engine": "The engine prompt length 1327246 exceeds the max_model_len 131072. Please reduce prompt.",
    "vllm-passed": "You passed 33000 input tokens and requested 1 output tokens. However, the model's "
    "context length is "
    "only 32768 tokens, resulting in a maximum input length of 32767 tokens.",
    "sglang": "Requested token count exceeds the model's maximum context length of 131072 tokens.",
    "llama-server": "request (9000 tokens) exceeds the available context size (4096 tokens), try increasing it",
    "llama-server-older": "Input prompt is too big compared to KV size. Please try increasing KV size.",
    "llama-server-old": "Context size has been exceeded.",
    "lm-studio": "The number of tokens to keep from the initial prompt is greater than the context length.",
    "lm-studio-overflow": "Trying to keep the first 5021 tokens when context the overflows. However, the model "
    "is loaded "
    "with context length of only 4096 tokens, which is not enough.",
    "ollama": "prompt too long; exceeded max context length by 100918 tokens",
    "minimax": "invalid params, context window exceeds limit (2013)",
    "minimax-total": "invalid params: total tokens exceed the model's maximum context length limit",
    "gemini": "Unable to submit request because the input token count is 9 but model only supports up to 8.",
    "anthropic": "prompt is too long: 208310 tokens > 200000 maximum",
    "anthropic-sum": "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, "
    "decrease input length",
    "openai": "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "openai-responses": "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 509178.",
    "openai-chars": "Invalid 'messages[0].content': string too long. Expected a string with maximum "
    "length 1048576, but "
    "got a string with length 1540820 instead.",
    "openrouter": "This endpoint's maximum context length is 131072 tokens. However, you requested "
    "about 200000 tokens.",
    "cerebras": "Please reduce the length of the messages or completion. Current length is 8193 while limit is 8192",
    "qianfan": "Prompt tokens too long",
    "baichuan": "tokens too long",
    "llama-cpp-python": "Requested tokens (5021) exceed context window of 4096",
    "generic": "The prompt has too many tokens",
    "sambanova": "The maximum context length of x is 8192. However, answering your request will take 8500 tokens.",
    "ds4": "Prompt has 256,468 tokens, but the configured context size is 256,000 tokens",
    "siliconflow": "length of prompt_tokens (33000) must be less than max_seq_len (32768).",
    "volcengine": "Total tokens of image and text exceed max message tokens. Request id: 0217",
    "cloudflare": "AiError: The estimated number of input and maximum output tokens (8200) exceeded this model context "
    "window limit (7968).",
    "watsonx": "the number of input tokens 5000 cannot exceed the total tokens limit 4096 for this model",
    "databricks": "prompt token count (5000) cannot exceed 4096. Please retry with a shorter prompt.",
    "azure": "This request exceeds the maximum number of input tokens for the deployment.",
    "litellm": "litellm.BadRequestError: litellm.ContextWindowExceededError: OpenAIException - too long",
    "chinese": "输入长度超过模型最大限制",
    "chinese-window": "上下文超出窗口大小限制",
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("vendor", TOO_LONG)
def test_a_prompt_that_is_too_long_is_told_in_many_words(vendor: str, adapter: str) -> None:
    body = {"error": {"message": TOO_LONG[vendor], "type": "invalid_request_error"}}
    for status in (400, 413, 422, 429, 500, 503, None):
        found = ADAPTERS[adapter](body, provider=adapter, key=None, status=status)
        assert found.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED, status


NO_CREDIT = {
    "anthropic": "Your credit balance is too low to access the Anthropic API. Please go to Plans & Billing to upgrade.",
    "anthropic-cap": "This request would exceed your account's monthly spend limit.",
    "anthropic-usage": "You have reached your specified API usage limits. You will regain access on 2026-12-01.",
    "openai": "You exceeded your current quota, please check your plan and billing details.",
    "openai-billing": "Your account is not active, please check your billing details on our website.",
    "deepseek": "Insufficient Balance",
    "minimax": "insufficient balance (1008)",
    "glm": "余额不足或无可用资源包,请充值。",
    "glm-english": "Insufficient balance or no resource package. Please recharge.",
    "glm-plan": "Usage limit reached for 5 hour. Your limit will reset at 2026-11-28 22:00:00",
    "kimi": "Your account org-x is suspended due to insufficient balance, please recharge your account",
    "siliconflow": "Sorry, your account balance is insufficient",
    "dashscope": "Access denied, please make sure your account is in good standing.",
    "dashscope-free": "The free tier of the model has been exhausted.",
    "volcengine": "The request failed because your account has an overdue balance.",
    "one-api": "用户额度不足, 剩余额度: $0.00",
    "one-api-english": "token quota is not enough, token remain quota: $0.00",
    "anthropic-extra": "You're out of extra usage. Add more in your settings and keep going.",
    "bedrock": "INVALID_PAYMENT_INSTRUMENT: A valid payment instrument must be provided.",
    "new-api": "User's credit limit is insufficient",
    "xai": "Your team 1f has either used all available credits or reached its monthly spending limit.",
    "xai-never": "Your team doesn't have any credits yet.",
    "xai-out": "You have run out of credits.",
    "openrouter": "This request requires more credits, or fewer max_tokens. You requested 32000, but "
    "can only afford 12.",
    "openrouter-key": "Key limit exceeded (total limit). Manage it using the settings.",
    "openrouter-none": "Insufficient credits. Add more on the page of your account.",
    "huggingface": "You have exceeded your monthly included credits for Inference Providers.",
    "together": "Credit limit exceeded, please add a card.",
    "fireworks": "Account x is suspended, possibly due to reaching the monthly spending limit or "
    "failure to pay past invoices.",
    "cloudflare": "you have used up your daily free allocation of 10,000 neurons, please upgrade",
    "copilot": "You have exceeded your premium request allowance.",
    "litellm": "Budget has been exceeded! Current cost: 10.1, Max budget: 10.0",
    "subscription": "Subscription quota exceeded. You can continue using free models.",
    "google": "Your prepayment credits are depleted.",
    "google-billing": "This API method requires billing to be enabled.",
    "novita": "not enough balance",
    "generic": "Payment Required",
    "generic-none": "No remaining credits",
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("vendor", NO_CREDIT)
def test_no_credit_is_told_in_many_words_and_with_any_status(vendor: str, adapter: str) -> None:
    body = {"error": {"message": NO_CREDIT[vendor], "type": "api_error"}}
    for status in (400, 401, 402, 403, 412, 429, 500, 503, None):
        found = ADAPTERS[adapter](body, provider=adapter, key=None, status=status)
        assert found.code == ErrorCode.QUOTA_EXHAUSTED, status


FILTERED = {
    "deepseek": "Content Exists Risk",
    "kimi": "The request was rejected because it was considered high risk",
    "minimax": "input new_sensitive (1026)",
    "dashscope": "Input data may contain inappropriate content.",
    "glm": "系统检测到输入或生成内容可能包含不安全或敏感内容",
    "azure": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
    "openrouter": 'acme/model requires moderation on Acme. Your input was flagged for "violence".',
}


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("vendor", FILTERED)
def test_a_filter_is_told_in_many_words(vendor: str, adapter: str) -> None:
    body = {"error": {"message": FILTERED[vendor], "type": "api_error"}}
    for status in (400, 403, 422, 500, None):
        found = ADAPTERS[adapter](body, provider=adapter, key=None, status=status)
        assert found.code == ErrorCode.CONTENT_FILTERED, status


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("status", "error", "code"),
    [
        (403, {"message": "no", "code": "insufficient_user_quota"}, ErrorCode.QUOTA_EXHAUSTED),
        (429, {"message": "no", "type": "insufficient_balance_error", "http_code": "429"}, ErrorCode.QUOTA_EXHAUSTED),
        (429, {"message": "no", "type": "exceeded_current_quota_error"}, ErrorCode.QUOTA_EXHAUSTED),
        (403, {"message": "no", "code": "personal-team-blocked:spending-limit"}, ErrorCode.QUOTA_EXHAUSTED),
        (400, {"message": "no", "code": "Arrearage"}, ErrorCode.QUOTA_EXHAUSTED),
        (429, {"message": "no", "code": "1113"}, ErrorCode.QUOTA_EXHAUSTED),
        (403, {"message": "no", "code": 30001}, ErrorCode.QUOTA_EXHAUSTED),
        (429, {"message": "no", "code": "quota_exceeded"}, ErrorCode.QUOTA_EXHAUSTED),
        (400, {"message": "no", "code": "1301"}, ErrorCode.CONTENT_FILTERED),
        (400, {"message": "no", "code": "data_inspection_failed"}, ErrorCode.CONTENT_FILTERED),
        (400, {"message": "no", "type": "content_filter"}, ErrorCode.CONTENT_FILTERED),
        (400, {"message": "The provided model identifier is invalid."}, ErrorCode.MODEL_NOT_FOUND),
        (400, {"message": "no", "code": "1261"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, {"message": "no", "code": "model_max_prompt_tokens_exceeded"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, {"message": "no", "type": "exceed_context_size_error"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, {"message": "no", "code": "context_length_exceeded"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (400, {"message": "no", "code": "tokens_too_long"}, ErrorCode.CONTEXT_LENGTH_EXCEEDED),
        (429, {"message": "no", "code": "1302"}, ErrorCode.RATE_LIMITED),
        (429, {"message": "Allocated quota exceeded", "code": "Throttling.AllocationQuota"}, ErrorCode.RATE_LIMITED),
    ],
)
def test_names_say_the_cause(adapter: str, status: int, error: dict[str, Any], code: ErrorCode) -> None:
    for answered in (status, None):
        assert ADAPTERS[adapter]({"error": error}, provider=adapter, key=None, status=answered).code == code


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (400, "Unknown parameter: 'context_window'.", ErrorCode.INVALID_REQUEST),
        (400, "The long context window beta is not available for this organization.", ErrorCode.INVALID_REQUEST),
        (400, "context_window: Extra inputs are not permitted", ErrorCode.INVALID_REQUEST),
        (400, "max_tokens is too large: 100000. This model supports at most 16384.", ErrorCode.INVALID_REQUEST),
        (400, "max_tokens: 9000 > 8192, which is the maximum allowed number of output tokens",
              ErrorCode.INVALID_REQUEST),
        (400, "Range of max_tokens should be [1, 8192]", ErrorCode.INVALID_REQUEST),
        (400, "max_tokens参数非法, 限制数值范围[1,1024]", ErrorCode.INVALID_REQUEST),
        (400, "The max_tokens exceeds the model limit of 8192", ErrorCode.INVALID_REQUEST),
        (400, "Invalid request: tool name exceeds maximum length 64", ErrorCode.INVALID_REQUEST),
        (400, "The image in the input is too large: 9 MB", ErrorCode.INVALID_REQUEST),
        (400, "Invalid 'tools[0].function.description': string too long. Expected a string with maximum length 1024, "
              "but got a string with length 1540 instead.", ErrorCode.INVALID_REQUEST),
        (400, "Unknown parameter: 'billing'.", ErrorCode.INVALID_REQUEST),
        (400, "metadata.balance must be a string", ErrorCode.INVALID_REQUEST),
        (429, "Rate limit reached for gpt-4o on tokens per min (TPM): Limit 30000, Used 29500, Requested 700. "
              "Please try again in 400ms.", ErrorCode.RATE_LIMITED),
        (429, "Rate limit reached for model `x` in organization `org_x` on tokens per day (TPD): Limit 500000, Used "
              "499898. Please try again in 3m33s. Need more tokens? Upgrade to Dev Tier at settings/billing",
              ErrorCode.RATE_LIMITED),
        (429, "This request would exceed your organization's rate limit of 30,000 input tokens per minute. Please "
              "reduce the prompt length or the maximum tokens requested, or try again later.", ErrorCode.RATE_LIMITED),
        (429, "Too many tokens, please wait before trying again.", ErrorCode.RATE_LIMITED),
        (429, "Requests to the ChatCompletions_Create Operation have exceeded token rate limit of your current S0 "
              "pricing tier. Please retry after 26 seconds. See quotaincrease.", ErrorCode.RATE_LIMITED),
        (429, "Quota exceeded for aiplatform.googleapis.com/generate_content_requests_per_minute_per_project. Please "
              "submit a quota increase request.", ErrorCode.RATE_LIMITED),
        (429, "You exceeded your current quota, please check your plan and billing details. Please retry in 17.3s.",
              ErrorCode.RATE_LIMITED),
        (429, "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000 free model requests per day",
              ErrorCode.RATE_LIMITED),
        (429, "Your account reached max organization concurrency: 3, please try again after 1 seconds",
              ErrorCode.RATE_LIMITED),
        (429, "Rate limit reached for gpt-4 on requests per min. Limit: 3 / min. You can increase your rate limit by "
              "adding a payment method to your account.", ErrorCode.RATE_LIMITED),
        (429, "INSUFFICIENT QUOTA: You exceeded your current limit of concurrent requests.", ErrorCode.RATE_LIMITED),
        (429, "Insufficient quota: 100 requests per minute", ErrorCode.RATE_LIMITED),
        (400, "The maximum tokens you requested exceeds the model limit of 4096.", ErrorCode.INVALID_REQUEST),
        (401, "Invalid token", ErrorCode.AUTHENTICATION_FAILED),
        (403, "You have no access to this model.", ErrorCode.AUTHENTICATION_FAILED),
        (500, "Internal server error", ErrorCode.PROVIDER_UNAVAILABLE),
        (503, "no healthy upstream", ErrorCode.OVERLOADED),
    ],
)  # fmt: skip
def test_other_errors_stay_what_they_are(adapter: str, status: int, message: str, code: ErrorCode) -> None:
    assert ADAPTERS[adapter]({"error": {"message": message}}, provider=adapter, key=None, status=status).code == code


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("status", "message", "code"),
    [
        (None, "The model is currently at capacity due to high demand. Please try again later.", ErrorCode.OVERLOADED),
        (None, "The engine is currently overloaded, please try again later", ErrorCode.OVERLOADED),
        (None, "The server is busy. Please try again later.", ErrorCode.OVERLOADED),
        (None, "Service Unavailable", ErrorCode.OVERLOADED),
        (None, "Rate limit exceeded", ErrorCode.RATE_LIMITED),
        (None, "Too many requests", ErrorCode.RATE_LIMITED),
        (None, "Incorrect API key provided", ErrorCode.AUTHENTICATION_FAILED),
        (400, "Incorrect API key provided", ErrorCode.AUTHENTICATION_FAILED),
        (403, "API rate limit exceeded for the user", ErrorCode.RATE_LIMITED),
        (400, "Model not found: grok-99", ErrorCode.MODEL_NOT_FOUND),
        (
            429,
            "litellm.RateLimitError: You exceeded your current quota, please check your plan and billing details.",
            ErrorCode.QUOTA_EXHAUSTED,
        ),
        (
            400,
            "The request failed because the input text may contain sensitive information.",
            ErrorCode.CONTENT_FILTERED,
        ),
        (400, "Model is unloaded.", ErrorCode.OVERLOADED),
        (None, "Loading model", ErrorCode.OVERLOADED),
        (403, "Your input was flagged by moderation", ErrorCode.CONTENT_FILTERED),
        (400, "The request was rejected because it was considered high risk", ErrorCode.CONTENT_FILTERED),
        (None, "Output data may contain inappropriate content.", ErrorCode.CONTENT_FILTERED),
        (439, "Your API Token has expired.", ErrorCode.AUTHENTICATION_FAILED),
        (449, "You exceeded your current rate limit", ErrorCode.RATE_LIMITED),
        (None, "unexpected EOF", ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_words_decide_where_a_status_says_too_little(
    adapter: str, status: int | None, message: str, code: ErrorCode
) -> None:
    body = {"error": {"message": message, "type": "server_error"}}
    assert ADAPTERS[adapter](body, provider=adapter, key=None, status=status).code == code


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_a_limit_that_passes_soon_is_no_empty_account(adapter: str) -> None:
    body = {"error": {"message": "You exceeded your current quota."}}

    def code(headers: dict[str, str]) -> ErrorCode:
        return ADAPTERS[adapter](body, provider=adapter, key=None, status=429, headers=headers).code

    assert code({"retry-after": "20"}) == ErrorCode.RATE_LIMITED
    assert code({}) == ErrorCode.QUOTA_EXHAUSTED


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_words_of_the_prompt_are_not_the_vendors(adapter: str) -> None:
    prompt = "Explain to a customer with insufficient balance that the prompt is too long, in two friendly sentences."
    body = {"error": {"message": f"cannot read {prompt!r}"}}
    found = ADAPTERS[adapter](body, provider=adapter, key=None, status=400, prompt=(text for text in [prompt]))
    assert found.code == ErrorCode.INVALID_REQUEST
    assert "customer" not in found.message


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    "wrapped",
    [
        {"message": "Provider returned error", "code": 400, "metadata": {"raw": "INNER", "provider_name": "Nvidia"}},
        {
            "message": "Provider returned error",
            "code": 400,
            "metadata": {"raw": {"message": "Prompt exceeds max length"}},
        },
        {"message": "Provider returned error", "metadata": {"raw": "Prompt exceeds max length"}},
        {"message": "INNER"},
        {"message": "litellm.BadRequestError: OpenAIException - INNER"},
        {"message": {"error": {"message": "Prompt exceeds max length"}}},
        {"error": {"message": "Prompt exceeds max length"}},
    ],
)
def test_the_error_of_the_vendor_behind_a_gateway_is_read(adapter: str, wrapped: dict[str, Any]) -> None:
    inner = json.dumps({"error": {"message": "Prompt exceeds max length", "type": "Bad Request", "code": 400}})
    body = json.loads(json.dumps({"error": wrapped}).replace("INNER", json.dumps(inner)[1:-1]))
    found = ADAPTERS[adapter](body, provider=adapter, key=None, status=400)
    assert found.code == ErrorCode.CONTEXT_LENGTH_EXCEEDED
    assert "Prompt exceeds max length" in found.message


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("status", [403, 503])
def test_the_page_of_a_firewall_says_nothing_of_the_key(adapter: str, status: int) -> None:
    page = "<!DOCTYPE html><html><title>Just a moment...</title></html>"
    found = ADAPTERS[adapter](page, provider=adapter, key=None, status=status)
    assert found.retryable
    assert "moment" not in found.message


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_only_what_says_so_is_a_check_for_browsers(adapter: str) -> None:
    def code(body: object, status: int, headers: dict[str, str]) -> ErrorCode:
        return ADAPTERS[adapter](body, provider=adapter, key=None, status=status, headers=headers).code

    assert code("", 401, {"cf-mitigated": "challenge"}) == ErrorCode.PROVIDER_UNAVAILABLE
    assert code({"error": {"message": "no"}}, 403, {"server": "cloudflare"}) == ErrorCode.AUTHENTICATION_FAILED
    assert code("<html>", 401, {}) == ErrorCode.AUTHENTICATION_FAILED
    assert code("<html>", 404, {}) == ErrorCode.MODEL_NOT_FOUND


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (407, ErrorCode.PROVIDER_UNAVAILABLE),
        (418, ErrorCode.INVALID_REQUEST),
        (420, ErrorCode.RATE_LIMITED),
        (430, ErrorCode.RATE_LIMITED),
        (498, ErrorCode.OVERLOADED),
        (499, ErrorCode.PROVIDER_UNAVAILABLE),
        (520, ErrorCode.PROVIDER_UNAVAILABLE),
        (524, ErrorCode.PROVIDER_TIMEOUT),
        (530, ErrorCode.PROVIDER_UNAVAILABLE),
    ],
)
def test_unusual_statuses_are_known(adapter: str, status: int, code: ErrorCode) -> None:
    body = {"error": {"message": "no", "type": "invalid_request_error"}}
    assert ADAPTERS[adapter](body, provider=adapter, key=None, status=status).code == code


HOSTILE = (
    "exceed", "exceedmodel", "overflow", "insufficient_a_", "no a ", "quota_a_", "spent all ", "context length ",
    "prompt ", "input tokens ", "credits ", "billing ", "again in 1s ", "1s", "api key ", "_", "*", "sk-", "{", " ",
)  # fmt: skip


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("unit", HOSTILE)
def test_no_words_of_a_server_keep_a_worker_busy(adapter: str, unit: str) -> None:
    text = unit * (1_000_000 // len(unit))
    body = {"error": {"message": text, "code": text, "type": text, "details": [{"error_code": text}] * 100}}
    began = time.process_time()
    ADAPTERS[adapter](body, provider=adapter, key=None, prompt=[text], status=400)
    ADAPTERS[adapter](body, provider=adapter, key=None, prompt=[])
    assert time.process_time() - began < 2
