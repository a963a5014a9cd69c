"""Fixtures of the integration tests: real Postfix, real DNS, scripted remotes and relayd itself.

Nothing here sleeps to synchronise: everything waits for a condition (rig.wait.until) and says
what it waited for when the condition never came true.
"""
