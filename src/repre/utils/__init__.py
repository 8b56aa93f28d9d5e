"""Small tools that know nothing of the method: ranks, averages, heads, schedules."""
