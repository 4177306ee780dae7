"""What vendors mean by the names and words of their errors, where a status does not say it or says something else.

One table for all adapters, because any of these servers can stand behind any of them: llama-server, Bedrock, GLM, Kimi
and MiniMax serve Anthropic's format as well as OpenAI's, and gateways (LiteLLM, OpenRouter, one-api) pass on the words
of whoever is behind them, under a status of their own.

Sources: the vendors' pages on errors, and the words that their servers were seen to answer with.
"""

import re
from http import HTTPStatus

from contracts.errors import (
    AuthenticationFailed,
    ContentFiltered,
    ContextLengthExceeded,
    FleetError,
    ModelNotFound,
    Overloaded,
    ProviderTimeout,
    QuotaExhausted,
    RateLimited,
)
from workers.providers.shared.errors.body import Reported

SOON_S = 3600.0
"""Who says to come back within this time has a limit for a while, not an account without credit."""

CAUSES: dict[str, type[FleetError]] = {
    "1113": QuotaExhausted,  # GLM's codes: the account is in arrears
    "1308": QuotaExhausted,  # the limit of a plan
    "1309": QuotaExhausted,  # the plan has run out
    "1310": QuotaExhausted,  # the limit of a week or a month
    "1261": ContextLengthExceeded,
    "1302": RateLimited,
    "1303": RateLimited,
    "1305": Overloaded,
    "30001": QuotaExhausted,  # SiliconFlow
    "accountoverdueerror": QuotaExhausted,  # Volcengine
    "arrearage": QuotaExhausted,  # DashScope
    "allocationquota.freetieronly": QuotaExhausted,
    "throttling": RateLimited,
    "throttling.ratequota": RateLimited,
    "throttling.allocationquota": RateLimited,
    "throttling.burstrate": RateLimited,
    "throttlingexception": RateLimited,  # Bedrock
    "servicequotaexceededexception": RateLimited,
    "base_resp 1001": ProviderTimeout,  # MiniMax
    "base_resp 1002": RateLimited,
    "base_resp 1004": AuthenticationFailed,
    "base_resp 1008": QuotaExhausted,
    "base_resp 1039": RateLimited,
    "base_resp 1041": RateLimited,
    "base_resp 2049": AuthenticationFailed,
    "base_resp 2056": QuotaExhausted,
    "exceeded_current_quota_error": QuotaExhausted,  # Kimi
    "billing_error": QuotaExhausted,
    "billing_hard_limit_reached": QuotaExhausted,
    "billing_not_active": QuotaExhausted,
    "budget_exceeded": QuotaExhausted,  # LiteLLM
    "credits_exhausted": QuotaExhausted,
    "credit_balance_exhausted": QuotaExhausted,
    "organization_usage_limit_exceeded": QuotaExhausted,
    "pre_consume_token_quota_failed": QuotaExhausted,  # one-api
    "usage_limit_reached": QuotaExhausted,
    "usage_not_included": QuotaExhausted,
    "exceed_context_size_error": ContextLengthExceeded,  # llama-server
    "model_max_prompt_tokens_exceeded": ContextLengthExceeded,  # GitHub Copilot
    "max_prompt_tokens_exceeded": ContextLengthExceeded,
    "context_length_exceed": ContextLengthExceeded,
    "contextwindowexceedederror": ContextLengthExceeded,  # LiteLLM
    "tokens_too_long": ContextLengthExceeded,  # Qianfan
    "request_too_large": ContextLengthExceeded,
    "content_filter": ContentFiltered,
    "content_policy_violation": ContentFiltered,
    "responsibleaipolicyviolation": ContentFiltered,
    "moderation_blocked": ContentFiltered,
    "datainspectionfailed": ContentFiltered,  # DashScope
    "data_inspection_failed": ContentFiltered,
    "base_resp 1026": ContentFiltered,  # MiniMax: the input
    "base_resp 1027": ContentFiltered,  # the output
    "1301": ContentFiltered,  # GLM
}
"""Names that say the cause, in lower case. Vague ones (`rate_limit_error`, `api_error`) are in the vendors'
errors.py."""


def _any(*patterns: str) -> re.Pattern[str]:
    """One pattern for several. Their repetitions must be bounded: they search what a server may have written to keep
    them busy, and `(?:\\w+[ _]){0,2}` takes a minute for 10,000 characters."""
    return re.compile("|".join(patterns), re.IGNORECASE)


_FOR_A_WHILE = _any(
    r"(?:per[ _-]?|/ ?)(?:second|sec|minute|min|hour|day)(?![a-z])|\b[RT]P[SMDH]\b",
    r"rate[ _-]?limit(?!error)|too many requests|throttl|concurren|resource[ _](?:has been )?exhausted",
    r"(?:again|retry) (?:in|after) (?:about |~)?\d",
    r"每分钟|每秒|每天|频率|速率|限流|并发",
)
"""A limit that time lifts; not LiteLLM's RateLimitError, which is every 429. Its words speak of tokens and quotas too,
and of plans that have more of them."""

_MORE_THAN_A_WHOLE_LIMIT = _any(r"request too large")
"""A 413 or 429 for one request that is larger than a whole minute's limit: waiting does not help."""

_EXCEED = r"exceed(?:s|ed|ing)?"
_WORD = r"[^\W_]{1,30}"
_WINDOW = r"context[ _-]?(?:length|window|size|limit)"
_TOO_LONG = _any(
    # Anthropic, Bedrock, Fireworks, Qianfan, vLLM: `prompt is too long`, `Input is too long for requested model`
    r"\b(?:prompts?|inputs?|context|conversation|messages?)(?: ?\([^)]{0,80}\)| text| tokens?| length)*"
    r" (?:is |are |was |were )?too long\b|(?<![a-z_])tokens? too long",
    # OpenAI, vLLM, SGLang, Mistral, DeepSeek, SambaNova, xAI, Poolside
    r"max(?:imum)? (?:context|prompt|input|model|sequence)(?: token)? length|maximum allowed (?:input|prompt) length",
    # MiniMax, LM Studio, llama-server, Ollama, Cloudflare, LiteLLM; not what only names the window
    r"(?:exceed|overflow|(?:longer|larger|greater|more) than|does(?:n't| not) fit|reached"
    rf"|too (?:long|large|many))[^.!?\n]{{0,80}}\b{_WINDOW}",
    rf"{_WINDOW}[^.!?\n]{{0,80}}?(?:exceed|overflow|\bhit\b)|context (?:the )?overflow",
    rf"{_WINDOW}(?: is| is only| of only) [\d,]{{3,}}",
    # Gemini, DeepInfra, Copilot, Databricks
    r"\b(?:input|prompt) token count[^.\n]{0,80}(?:exceed|only supports|limit|greater|larger)",
    r"\b(?:inputs?|prompts?|requests?|messages?)\b(?:(?!max|output|completion)[^.\n]){0,60}"
    r"exceeds? (?:the )?(?:model's )?maximum (?:number of )?(?:input )?tokens|maximum number of input tokens",
    # watsonx, Azure, Bedrock, Cohere
    r"\b(?:input|prompt)[ _]tokens?\b[^.\n]{0,60}(?:exceed|must be (?:less|smaller) than)",
    r"number of tokens in the (?:prompt|input)[^.\n]{0,40}exceed|too many (?:input|prompt) tokens",
    r"\b(?:prompt|input|request)s? (?:has|have|contains?) too many tokens",
    r"too (?:big|large|long) compared to KV size|too many total text bytes|request payload size exceeds",
    # Kimi, GLM, DashScope, Volcengine, SiliconFlow
    rf"{_EXCEED} (?:the )?model token limit|tokens in request more than max tokens|token length exceed",
    r"range of input length should be|exceed max message tokens|must be less than max_seq_len",
    rf"\b(?:prompt|input|context|conversation)s?\b[^.:\n]{{0,60}}\b{_EXCEED}\b[^.\n]{{0,40}}"
    r"(?:max(?:imum)?[ _](?:(?:model|seq|sequence)[ _])?len(?:gth)?\b|length limit|limit of [\d,]+ tokens)",
    # TGI, Together
    r"`?inputs`? tokens \+ `?max_new_tokens`? must be|`?inputs`? must have less than [\d,]+",
    # Groq, Cerebras
    r"(?:reduce|shorten) (?:the )?(?:length|size|number of tokens) (?:of|in) the (?:input|prompt|messages?)",
    r"string too long\. expected a string with maximum length \d{6,}",  # OpenAI: a message of a million characters
    r"(?:上下文|输入|提示词?|(?<![a-z_])prompt|(?<![a-z_])tokens?)[^。\n]{0,20}"
    r"(?:过长|超长|(?:超过|超出|大于)[^。\n]{0,20}(?:长度|上限|限制|窗口|最大))",
)

_NO_CREDIT = _any(
    rf"(?:insufficient|not enough|out of|no)[ _](?:{_WORD}[ _]){{0,2}}(?:credits?|balance|funds)\b",
    r"\b(?:credits?|balance|funds)\b[^.\n]{0,30}?"
    r"(?:insufficient|too low|not enough|depleted|exhausted|used up|negative|run out|ran out)",
    r"(?:don't|doesn't|does not|do not) have (?:any|enough) (?:credits?|balance|funds)",
    r"(?:used|spent|exhausted|exceeded)"
    r"(?: up| all| of| your| its| the| available| daily| monthly| included| free| premium)+"
    r" (?:credits?|allocation|request allowance)",
    r"quota (?:is )?(?:not enough|insufficient)|out of (?:extra )?usage|valid payment instrument",
    r"requires? more credits|can only afford|credit limit exceeded|calls ?/ ?month",
    r"spend(?:ing)?[ _-](?:limit|cap)|budget (?:limit |has been )?exceeded|(?:out of|over|exceeded) ?budget",
    r"payment (?:is )?required|overdue (?:payment|balance|invoice)|past[ -]due|past invoices|in arrears|good standing",
    r"billing (?:hard )?limit|(?:enable|requires) billing|billing (?:to be|is not|not|must be) (?:enabled|active)",
    r"billing (?:account )?[^.\n]{0,60}(?:is |been |not )(?:disabled|closed|suspended|inactive|found|active)",
    r"account is not active, please check your billing",
    r"requires a (?:paid )?subscription|free tier (?:of the model )?(?:is not available|has been exhausted)",
    r"(?:extra usage|usage credits) (?:is|are) required|specified (?:API|workspace API) usage limits",
    r"欠费|余额不足|余额已|额度不足|额度已|额度用|配额不足|请充值",
)
"""Time does not fill it."""

_ALLOWANCE = r"(?:quota|usage limit|allowance)"
_USED_UP = _any(
    r"exceeded your current quota|check your plan and billing",
    rf"(?:insufficient|not enough|out of|no)[ _](?:{_WORD}[ _]){{0,2}}quota\b",
    rf"{_ALLOWANCE}\b[^.\n]{{0,40}}?(?:exceeded|exhausted|reached|used up|depleted)",
    rf"(?:exceeded|exhausted|reached|used up|hit)\b[^.\n]{{0,40}}?{_ALLOWANCE}",
    r"key (?:budget )?limit exceeded|(?:exceeded|reached|hit)[^.\n]{0,20} monthly limit",
)
"""Also says that there is no credit, unless other words of the error are about a limit for a while."""

_NAMED_TOO_LONG = _any(
    r"context_?(?:length|window|size|limit)_?exceed|(?:prompt|inputs?|tokens?|context)_too_(?:long|large)"
)
_NAMED_NO_CREDIT = _any(
    rf"insufficient[_-]?(?:{_WORD}[_-]){{0,3}}(?:quota|balance|credits?|funds)",
    r"(?:no|out_of|not_enough)_(?:credits?|balance|funds)"
    rf"|(?:quota|usage|credits?|balance)_(?:{_WORD}_){{0,3}}exhausted",
    r"(?:subscription|plan|user|account|monthly)_quota_exceeded|spend(?:ing)?[_-]limit(?:_reached|_exceeded)?$",
    r"payment_required",
)
_NAMED_USED_UP = _any(r"^(?:quota|usage_limit)_?exceeded(?:_error)?$")
"""How names of errors say what the three tables above say in words."""

_FILTERED = _any(
    # DeepSeek, Kimi, MiniMax, DashScope, OpenRouter
    r"content exists risk|considered high risk|\bnew_sensitive\b|inappropriate content",
    r"requires moderation[^\n]{0,80}\bflagged|\b(?:input|prompt) was flagged|flagged (?:by|as|for)\b",
    r"blocked by (?:our |the )?content[ -]filter|content (?:filtering|management) policy",
    r"violat\w{0,5} (?:\w{1,20} ){0,3}(?:content|safety|usage) (?:policy|policies|guidelines)",
    r"sensitive (?:content|information|words?)|敏感|违规|内容安全",
)
_FILTERS_UNDER = frozenset({400, 403, 422, 500, None})

_KEY_REFUSED = _any(
    r"(?:invalid|incorrect|expired|revoked|missing|unknown|wrong|no)(?: \w{1,30})? api[ _-]?key",
    r"api[ _-]?(?:key|token)[^.\n]{0,20}"
    r"(?:not valid|not found|invalid|incorrect|expired|revoked|missing|required|disabled)",
    r"invalid authentication|authentication (?:failed|error)|user location is not supported",
    r"无效的令牌|身份验证失败|鉴权失败|api ?key ?(?:无效|错误)",
)
_TOO_OFTEN = _any(
    r"rate[ _-]?limit(?:ed)?\b[^.\n]{0,30}?(?:exceeded|reached|hit|error)",
    r"(?:exceed|reached|hit)[^.\n]{0,60} rate[ _-]?limit",
    r"too many (?:concurrent )?requests|throttlingexception|请求过于频繁|请求过快|限流|速率限制",
)
_BUSY = _any(
    r"(?:currently|temporarily|servers?|service|model|engine|system|is|are) overloaded",
    r"model (?:is |was |has been )?unloaded|model is (?:currently |still )?loading|^loading model",
    r"(?:at|over) capacity|capacity[^.\n]{0,20}(?:exceeded|exhausted|reached)|(?:no|insufficient) capacity",
    r"(?:server|service|system|model)s?(?: is| are)?(?: currently| too| temporarily)* busy",
    r"(?:due to|under|experiencing) (?:\w{1,30} )?(?:high|heavy) (?:demand|load|traffic)|负载过高|繁忙|过载",
)
_PASSES = _any(r"\boverloaded\b|try again later|retry later|(?:service|temporarily) unavailable|稍后再试|稍后重试")
_NO_MODEL = _any(
    r"\bmodel\b[^.\n]{0,80}(?:not found|does not exist|is not a valid model)|\bnot a valid model\b",
    r"\bmodel identifier is invalid",  # Bedrock
    r"(?:unknown|no such) model|模型不存在",
)

_NOT_OF_THE_PROMPT = frozenset({401, 402, 403, 404, 408})
"""Statuses that are about something else than the prompt, whatever the words."""
_REFUSED = (
    (_KEY_REFUSED, AuthenticationFailed),
    (_TOO_OFTEN, RateLimited),
    (_BUSY, Overloaded),
)
_VAGUE: dict[int | None, tuple[tuple[re.Pattern[str], type[FleetError]], ...]] = {
    None: (*_REFUSED, (_NO_MODEL, ModelNotFound), (_PASSES, Overloaded)),
    400: (*_REFUSED, (_NO_MODEL, ModelNotFound)),
    403: ((_TOO_OFTEN, RateLimited), (_BUSY, Overloaded)),
    500: ((_TOO_OFTEN, RateLimited),),
}
"""Statuses that say little, with the words that count beside them. None: inside a stream."""
_OF_NO_STANDARD = frozenset(range(400, 500)) - {int(status) for status in HTTPStatus}
"""Statuses that say as little as 400: iFlow's 439 is a token that has expired, its 449 a rate limit."""


def cause(said: Reported, *, status: int | None, comes_back_in_s: float | None) -> type[FleetError] | None:
    """What the names and words of an error say it is; None when that is left to the status.

    `status`: None inside a stream. `comes_back_in_s`: the seconds until the vendor wants to be asked again, if it says.
    """

    def says(words: re.Pattern[str], name: re.Pattern[str]) -> bool:
        return bool(words.search(said.wording)) or any(map(name.search, said.names))

    if status in (413, 429) and _MORE_THAN_A_WHOLE_LIMIT.search(said.wording):
        return ContextLengthExceeded
    if named := next((CAUSES[name.lower()] for name in said.names if name.lower() in CAUSES), None):
        return named
    passes = bool(_FOR_A_WHILE.search(said.wording)) or "RESOURCE_EXHAUSTED" in said.names
    soon = comes_back_in_s is not None and comes_back_in_s <= SOON_S
    if says(_NO_CREDIT, _NAMED_NO_CREDIT) or (not passes and not soon and says(_USED_UP, _NAMED_USED_UP)):
        return QuotaExhausted
    if not passes and status not in _NOT_OF_THE_PROMPT and says(_TOO_LONG, _NAMED_TOO_LONG):
        return ContextLengthExceeded
    if (status in _FILTERS_UNDER or status in _OF_NO_STANDARD) and _FILTERED.search(said.wording):
        return ContentFiltered
    vague = _VAGUE[400] if status in _OF_NO_STANDARD else _VAGUE.get(status, ())
    return next((kind for pattern, kind in vague if pattern.search(said.wording)), None)
