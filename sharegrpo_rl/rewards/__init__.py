"""Rule-based rewards: functions of texts, and the rubric that weighs them."""
