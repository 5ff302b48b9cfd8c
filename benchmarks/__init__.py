"""The benchmark: our server, or any that speaks Immich's protocol, against the bare sessions in the same run.

Read `__main__` for what is run and `targets` for what is asked of it. It is no part of the wheel.
"""
