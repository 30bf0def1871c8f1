"""All plans and one plan as the page in Airflow shows them. Knows nothing of Airflow or HTTP."""
