"""`/v1/responses`: OpenAI's Responses protocol, which is a chat whose turns the server may keep."""
