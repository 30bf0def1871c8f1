"""The page's list of plans and its view of one plan, without knowledge of Airflow or HTTP."""
