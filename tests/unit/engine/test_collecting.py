"""What a conversation makes of what is said: slots of every type, in its own timezone and locale."""

from tests.support.talk import Talk, replies

CLOCK = """
flow: clock
steps:
  - {id: tell, say: "${now} | ${timestamp(now).getHours()} | ${now.startsWith(today)}"}
"""


async def test_now_is_a_text_in_the_conversations_timezone() -> None:
    async with Talk(CLOCK, timezone="Asia/Kolkata") as talk:
        (told,) = replies(await talk.say("hello"))
    now, hours, same_day = told.split(" | ")
    assert now.endswith("+05:30")
    assert now[11:13] == f"{int(hours):02}"
    assert same_day == "true"
